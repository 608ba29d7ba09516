"""Steering a Hugging Face model: forward pre-hooks on its decoder layers, and nothing else."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from alphasteer.errors import SteeringError
from alphasteer.models import Decoder, find_decoder, model_fields, residual_of, with_residual
from alphasteer.steering.formula import gate_value, loudest, push, read_out
from alphasteer.steering.positions import PADDING, UNKNOWN, History, reply_starts
from alphasteer.steering.prompt_end_reads import PromptEndReads
from alphasteer.steering.steering import Push, Steering


@dataclass
class _Forward:
    """One forward of one thread: what its hooks hand to each other."""

    cache: Any = None
    mask: Any = None
    start: int = 0  # tokens in the cache before this forward
    ids: Tensor | None = None
    starts: tuple[Tensor, Tensor] | None = None  # row and column of each reply start
    gates: dict[int, Tensor] = field(default_factory=dict)  # by push; kept for the layers above its gate
    reads: dict[int, Tensor] = field(default_factory=dict)  # by push: its read-outs' sums so far, of shape (n, k)
    token_reads: dict[int, Tensor] = field(default_factory=dict)  # by push that reads means; (rows, tokens, k)
    scores: dict[int, Tensor] = field(default_factory=dict)

    @property
    def tokens(self) -> Tensor | None:
        """This forward's ids, ``PADDING`` where the mask, if it is a plain one, says so."""
        ids, mask = self.ids, self.mask
        if ids is None or not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[1] < ids.shape[1]:
            return ids
        first = self.start if mask.shape[1] >= self.start + ids.shape[1] else mask.shape[1] - ids.shape[1]
        return ids.masked_fill(mask[:, first : first + ids.shape[1]].to(ids.device) == 0, PADDING)

    def at(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row and column of each reply start, on a layer's device."""
        rows, columns = self.starts or (torch.empty(0, dtype=torch.long),) * 2
        return rows.to(device), columns.to(device)


@dataclass(frozen=True)
class GateReading:
    """What one gate read at the reply starts of the last forward that had any.

    Attributes:
        layer: the gate's highest layer, where it decides.
        rows: the batch row of each reply start, of shape (n,).
        scores: what the gate read (see ``formula.gate_score``), of shape (n,).
        values: how far the gate opened, of shape (n,).
    """

    layer: int
    rows: Tensor
    scores: Tensor
    values: Tensor


class Attached:
    """A steering at work on a model, until ``remove()`` or the end of the ``with`` block.

    Attributes:
        strength: a factor on every push; may be set at any time, and acts from the next reply start on. A tensor of
            shape (rows,) gives each row of the batches its own.
    """

    def __init__(self, steering: Steering, model: Any, *, strength: float = 1.0, strict: bool = True) -> None:
        self.steering = steering
        self.strength: float | Tensor = strength
        decoder = find_decoder(model)
        _check_fit(steering, model, decoder, strict)
        self._local = threading.local()  # hooks of concurrent forwards must not meet
        self._marker = torch.tensor(steering.reply_start)
        self._history = History("tokens", UNKNOWN)
        self._prompts = {
            index: PromptEndReads(item.gate, len(steering.reply_start), steering.prompt_end)
            for index, item in enumerate(steering.pushes)
            if item.reads_prompt_end and steering.prompt_end is not None
        }
        self._vectors: dict[tuple[int, str], Tensor] = {}
        # Compiled code skips hooks that were not there when it was compiled: without this the model would be
        # served unsteered, silently. The hooks themselves stay outside of compiled graphs.
        torch.compiler.reset()
        self._handles = [
            decoder.trunk.register_forward_pre_hook(_outside_graphs(self._enter), with_kwargs=True),
            decoder.embedding.register_forward_pre_hook(_outside_graphs(self._see_tokens), with_kwargs=True),
            decoder.trunk.register_forward_hook(_outside_graphs(self._leave), always_call=True),
        ]
        for layer in steering.layers:
            hook = _outside_graphs(self._layer_hook(layer))
            self._handles.append(decoder.layers[layer].register_forward_pre_hook(hook, with_kwargs=True))

    def remove(self) -> None:
        """Take every hook off; the model is then exactly what it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> "Attached":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def last_gates(self) -> tuple[GateReading, ...]:
        """What the gates read at this thread's last reply starts, one reading a push."""
        return getattr(self._local, "readings", ())

    def _forward(self) -> _Forward:
        if not hasattr(self._local, "forward"):
            self._local.forward = _Forward()
        forward: _Forward = self._local.forward
        return forward

    def _enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # What an interrupted forward left behind must go; the tokens may have been embedded before the trunk runs.
        forward = self._local.forward = _Forward(ids=self._forward().ids)
        forward.cache, forward.mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        forward.start = 0 if forward.cache is None else int(forward.cache.get_seq_length())

    def _see_tokens(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._forward().ids = args[0] if args else kwargs["input"]

    def _leave(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        forward = self._forward()
        cache = forward.cache if forward.cache is not None else getattr(output, "past_key_values", None)
        tokens = forward.tokens
        if cache is not None and tokens is not None:
            self._history.add(cache, forward.start, tokens)
            for index, reads in forward.token_reads.items():
                self._prompts[index].add(cache, forward.start, reads)
        self._local.forward = _Forward()

    def _locate(self, forward: _Forward, hidden: Tensor) -> None:
        """At the lowest layer concerned: find the reply starts among this forward's tokens."""
        ids = forward.ids
        if ids is None or ids.shape != hidden.shape[:2]:
            raise SteeringError("Steering needs the token ids of every forward; call the model with input_ids.")
        context = self._history.before(forward.cache, forward.start, ids, len(self._marker) - 1)
        found = reply_starts(context, ids, self._marker.to(ids.device))
        if self.steering.positions == "prompt":  # the last one of each row speaks for the whole prompt
            found = found & (found.flip(1).cumsum(1).flip(1) == 1)
        rows, columns = found.nonzero(as_tuple=True)
        forward.starts = (rows, columns) if rows.numel() else None

    def _layer_hook(self, layer: int) -> Callable[..., Any]:
        gated = [(i, p) for i, p in enumerate(self.steering.pushes) if layer in p.gate.w]
        pushed = [(i, p) for i, p in enumerate(self.steering.pushes) if layer in p.directions]
        lowest = layer == self.steering.layers[0]

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            forward = self._forward()
            if lowest:
                self._locate(forward, residual_of(args, kwargs))
            hidden = residual_of(args, kwargs)
            for index, item in gated:  # a prompt may come in pieces, of which the last one alone holds its reply start
                if index in self._prompts:
                    self._read_tokens(forward, index, item, layer, hidden)
            if forward.starts is None:
                return None
            for index, item in gated:  # all gates are read before anything is pushed here
                self._read(forward, index, item, layer, hidden)
            if gated and len(forward.gates) == len(self.steering.pushes):
                self._publish(forward)
            steered = hidden
            for index, item in pushed:
                steered = self._push(forward, forward.gates[index], item, layer, steered)
            return None if steered is hidden else with_residual(steered, args, kwargs)

        return hook

    def _read(self, forward: _Forward, index: int, item: Push, layer: int, hidden: Tensor) -> None:
        gate = item.gate
        w = self._vector(gate.w[layer], hidden)[..., : hidden.shape[-1]]
        reads = _summed(forward.reads, index, read_out(hidden[forward.at(hidden.device)], w, gate.normalised))
        if layer == gate.layer:
            if index in self._prompts:
                reads = reads + self._prompt_means(forward, index).to(reads.device)
            score = forward.scores[index] = loudest(reads, gate.gates)
            forward.gates[index] = gate_value(score, gate.threshold, gate.ceiling)

    def _read_tokens(self, forward: _Forward, index: int, item: Push, layer: int, hidden: Tensor) -> None:
        """What the gate reads of every token, for the mean over the prompt's end."""
        w = self._vector(item.gate.w[layer], hidden)[..., hidden.shape[-1] :]
        _summed(forward.token_reads, index, read_out(hidden.detach(), w))

    def _prompt_means(self, forward: _Forward, index: int) -> Tensor:
        reads, new = forward.token_reads[index], forward.tokens
        assert new is not None  # or no reply start would have been found
        tokens = torch.cat([self._history.before(forward.cache, forward.start, new, forward.start), new], dim=1)
        return self._prompts[index].means(forward.cache, tokens, reads, *forward.at(reads.device))

    def _publish(self, forward: _Forward) -> None:
        rows, _ = forward.at(torch.device("cpu"))
        self._local.readings = tuple(
            GateReading(p.gate.layer, rows, forward.scores[i].detach().cpu(), forward.gates[i].detach().cpu())
            for i, p in enumerate(self.steering.pushes)
        )

    def _push(self, forward: _Forward, gate: Tensor, item: Push, layer: int, hidden: Tensor) -> Tensor:
        gate, direction = gate.to(hidden.device), self._vector(item.directions[layer], hidden)
        rows, columns = forward.at(hidden.device)
        if isinstance(self.strength, Tensor):
            gate = gate * self.strength.to(hidden.device)[rows]
        strength = item.strength if isinstance(self.strength, Tensor) else item.strength * self.strength
        if strength == 0.0 or not bool(gate.any()):
            return hidden
        if self.steering.positions == "prompt":
            covered = torch.arange(hidden.shape[1], device=hidden.device) <= columns[:, None]
            which, columns = covered.nonzero(as_tuple=True)
            gate, rows = gate[which], rows[which]
        # A copy: the layer below's output may be kept by someone else, as output_hidden_states does.
        return hidden.index_put((rows, columns), push(hidden[rows, columns], gate, direction, strength))

    def _vector(self, vector: Tensor, hidden: Tensor) -> Tensor:
        key = (id(vector), str(hidden.device))
        if key not in self._vectors:
            self._vectors[key] = vector.to(hidden.device, torch.float32)
        return self._vectors[key]


def _summed(sums: dict[int, Tensor], index: int, reads: Tensor) -> Tensor:
    """Add one layer's reads to those of the layers below."""
    if index in sums:
        reads = reads + sums[index].to(reads.device)
    sums[index] = reads
    return reads


def _outside_graphs(hook: Callable[..., Any]) -> Callable[..., Any]:
    disabled: Callable[..., Any] = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
    return disabled


def _check_fit(steering: Steering, model: Any, decoder: Decoder, strict: bool) -> None:
    if steering.hidden_size != decoder.hidden_size or steering.layers[-1] >= len(decoder):
        raise SteeringError(
            f"This steering has vectors of length {steering.hidden_size} up to layer {steering.layers[-1]}, but the "
            f"model has {len(decoder)} layers of width {decoder.hidden_size}; fit one for this model."
        )
    if strict and steering.fitted_on is not None:
        fitted = steering.fitted_on
        differences = fitted.differences(fitted.model_copy(update=model_fields(model)))
        if differences:
            raise SteeringError(
                f"This steering was fitted on {fitted.model_id}, and this model differs: {'; '.join(differences)}. "
                "Fit one for this model, or attach with strict=False if it is a fine-tune."
            )
