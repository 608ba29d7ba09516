"""What an arm does where replies start: what its gate reads, and how far stream and first token's odds move."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from alphasteer.evaluation.arms import Arms
from alphasteer.models import find_decoder, loaded_digest, residual_of
from alphasteer.resuming import Shelf
from alphasteer.steering import Attached, GateReading, Steering


@dataclass(frozen=True)
class Starts:
    """One suite's reply starts under one arm, in the order of the prompts.

    Attributes:
        divergence: KL divergence of the arm's first-token distribution from the unsteered one, in nats, (n,).
        score: what the arm's first gate read, (n,).
        opened: how far that gate opened, (n,).
        shift: by layer, how far the residual stream was moved, as a share of its length, (n, layers).
        before, after: the stream at the last layer, unsteered and steered, (n, d).
    """

    divergence: Tensor
    score: Tensor
    opened: Tensor
    shift: Tensor
    before: Tensor
    after: Tensor

    def part(self, start: int, end: int) -> "Starts":
        """Those of the prompts from ``start`` to ``end``."""
        return Starts(*(getattr(self, each.name)[start:end] for each in fields(self)))


class StartsOnlooker:
    """Reads reply starts while arms reply: the first forward of their replies holds all there is to know.

    Kept on the shelf batch by batch.
    """

    def __init__(self, model: Any, sequences: Sequence[Sequence[int]], arms: Arms, shelf: Shelf) -> None:
        """Nothing is read yet.

        Args:
            sequences: the rendered prompts' token ids.
            arms: what replies to them; of each that steers, the starts are kept.
        """
        self._model, self._sequences, self._arms, self._shelf = model, sequences, arms, shelf
        self._same = [loaded_digest(model), str(model.dtype)]
        self._plain: list[_Forward] = []  # the batch's unsteered one
        self._found: dict[str, dict[str, Tensor]] = {}

    @property
    def starts(self) -> dict[str, Starts]:
        """By arm that steers."""
        return {arm: Starts(**tensors) for arm, tensors in self._found.items()}

    def knows(self, arm: str, batch: Sequence[int]) -> bool:
        """Whether an earlier run has read this arm's starts of these prompts; if so, they are among ``starts``."""
        steering = self._arms[arm]
        if steering is None:
            return True
        tensors = self._shelf.known("starts", self._identity(steering, batch))
        if tensors is not None:
            self._put(arm, batch, tensors)
        return tensors is not None

    @contextmanager
    def watch(self, arm: str, batch: Sequence[int], attached: Attached | None) -> Iterator[None]:
        """Reads the starts of these prompts, in this order, from the first forward within; unsteered ones first."""
        with _first_forward(self._model, attached) as forwards:
            yield
        if attached is None:
            self._plain = forwards
            return
        identity = self._identity(attached.steering, batch)
        self._put(arm, batch, self._shelf.tensors("starts", identity, lambda: _compared(*self._plain, *forwards)))

    def _identity(self, steering: Steering, batch: Sequence[int]) -> list[Any]:
        return [*self._same, [self._sequences[i] for i in batch], steering.digest]

    def _put(self, arm: str, batch: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
        count = len(self._sequences)
        if arm not in self._found:
            self._found[arm] = {name: torch.zeros(count, *each.shape[1:]) for name, each in tensors.items()}
        for name, each in tensors.items():
            self._found[arm][name][list(batch)] = each


@dataclass(frozen=True)
class _Forward:
    """A forward at its rows' last position: what follows, every layer's stream, and what the gates read."""

    log_odds: Tensor  # (n, vocabulary)
    streams: Tensor  # (n, layers, d)
    gates: tuple[GateReading, ...]


@contextmanager
def _first_forward(model: Any, attached: Attached | None) -> Iterator[list[_Forward]]:
    """Holds, in the end, the first forward within, after what is attached pushed it."""
    found: list[_Forward] = []
    streams: list[Tensor] = []

    def watch_layer(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not found:
            # A copy: a view would keep every position of every layer in memory.
            streams.append(residual_of(args, kwargs)[:, -1].to("cpu", torch.float32, copy=True))

    def watch_model(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not found:
            log_odds = output.logits[:, -1].float().log_softmax(-1).cpu()
            gates = () if attached is None else attached.last_gates
            found.append(_Forward(log_odds, torch.stack(streams, dim=1), gates))

    layers = find_decoder(model).layers
    handles = [layer.register_forward_pre_hook(watch_layer, with_kwargs=True) for layer in layers]
    handles.append(model.register_forward_hook(watch_model))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _compared(plain: _Forward, steered: _Forward) -> dict[str, Tensor]:
    """The fields of ``Starts`` for the rows of a batch."""
    odds, streams, count = plain.log_odds, plain.streams, len(plain.log_odds)
    moved = (odds.exp() * (odds - steered.log_odds)).sum(-1)
    score, opened = torch.zeros(count), torch.zeros(count)
    gate = steered.gates[0]
    for row, *read in zip(gate.rows.tolist(), gate.scores, gate.values, strict=True):
        score[row], opened[row] = read  # of several reply starts in a chat, the last one
    return {
        "divergence": moved.clamp(min=0),  # rounding may fall below nothing
        "score": score,
        "opened": opened,
        "shift": (steered.streams - streams).norm(dim=-1) / streams.norm(dim=-1),
        "before": streams[:, -1],
        "after": steered.streams[:, -1],
    }
