"""Activations of prompts, read once each and kept on the shelf."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from alphasteer.activations import read_residual_stream
from alphasteer.errors import LearningError
from alphasteer.models import Decoder, context_length
from alphasteer.prompts import ChatTemplate, Prompt, PromptEnd
from alphasteer.reporting import Reporter
from alphasteer.resuming import Shelf

ByLayer = Mapping[int, Tensor]
"""Activations of shape (n, d) by layer."""


@dataclass(frozen=True)
class Activations:
    """Activations of shape (n, d) by layer, of one source's two parts."""

    fit: ByLayer
    held_out: ByLayer


@dataclass(frozen=True)
class Examined:
    """The activations on which gates are fitted, chosen and calibrated, by source."""

    benign: Mapping[str, Activations]
    malicious: Mapping[str, Activations]

    def columns(self, first: int, end: int) -> "Examined":
        """The same prompts, of their activations some columns alone."""

        def cut(side: Mapping[str, Activations]) -> dict[str, Activations]:
            return {name: Activations(of(a.fit), of(a.held_out)) for name, a in side.items()}

        def of(by_layer: ByLayer) -> dict[int, Tensor]:
            return {layer: rows[:, first:end] for layer, rows in by_layer.items()}

        return Examined(cut(self.benign), cut(self.malicious))


def layer_of(side: Mapping[str, Activations], layer: int) -> dict[str, Tensor]:
    """One layer's activations of the fit's prompts, by source."""
    return {name: activations.fit[layer] for name, activations in side.items()}


class Readings:
    """The residual stream at the reply start of any prompts, at a fixed range of layers.

    Its mean over prompts' ends, if they are given, stands beside it: activations are then of shape (n, 2 d).
    """

    def __init__(
        self,
        model: Any,
        decoder: Decoder,
        template: ChatTemplate,
        layers: Sequence[int],
        shelf: Shelf,
        report: Reporter,
        identity: Sequence[str] = (),
        *,
        prompt_end: PromptEnd | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            identity: what tells the model from others on the same shelf, such as its weights' digest.
            prompt_end: over which tokens to take means as well.
        """
        self._prompt_end = prompt_end
        self._identity = [*identity, str(model.dtype), *([] if prompt_end is None else [asdict(prompt_end)])]
        self.layers = tuple(layers)
        self._model, self._decoder, self._template = model, decoder, template
        self._shelf, self._report = shelf, report
        self._known: dict[str, Tensor] = {}  # by prompt key, of shape (layers, d)

    def of(self, prompts: Sequence[Prompt], name: str) -> ByLayer:
        """Activations of these prompts by layer, in their order; what was read before is not read again.

        Raises:
            LearningError: if an activation is not finite.
            PromptError: if a prompt is longer than the model's context.
        """
        new = [prompt for prompt in prompts if prompt.key not in self._known]
        if new:
            sequences = self._template.render_all(new, context_length(self._model))
            stack = self._shelf.tensors(
                "activations", [self._identity, sequences, self.layers], lambda: self._read(sequences, name)
            )
            self._known.update(zip((prompt.key for prompt in new), stack["activations"], strict=True))
        width = self._decoder.hidden_size * (1 if self._prompt_end is None else 2)
        rows = (
            torch.stack([self._known[p.key] for p in prompts]) if prompts else torch.empty(0, len(self.layers), width)
        )
        return {layer: rows[:, i] for i, layer in enumerate(self.layers)}

    def _read(self, sequences: Sequence[Sequence[int]], name: str) -> dict[str, Tensor]:
        end, kept_back = self._prompt_end, len(self._template.reply_start)
        spans = None if end is None else [end.span(tokens, kept_back) for tokens in sequences]
        streams = read_residual_stream(
            self._model,
            self._decoder,
            sequences,
            self.layers,
            self._report,
            spans=spans,
            description=f"Reading {name}",
        )
        stack = torch.stack([streams[layer] for layer in self.layers], dim=1)
        if not bool(torch.isfinite(stack).all()):
            raise LearningError(f"Some activations of {name} are not finite; load the model in bfloat16 or float32.")
        return {"activations": stack}
