"""Steering inside a vLLM model's decoder layers, in plain torch code that ``torch.compile`` traces."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alphasteer.engines.vllm.prompt_ends import PromptEndBuffers, period
from alphasteer.errors import SteeringError
from alphasteer.models import layer_lists
from alphasteer.steering import Gate, Push, Steering
from alphasteer.steering.formula import gate_value, loudest, push, read_out

HIDDEN, RESIDUAL = "hidden_states", "residual"
KNOWN = frozenset({"positions", "position_ids", HIDDEN, RESIDUAL})
"""Arguments of layers whose stream is ``hidden_states``, or ``hidden_states + residual``; others are not steered."""


class StepBuffers(nn.Module):
    """What one step hands from the runner to the layers, and from each layer to those above.

    Allocated once, so that captured graphs see every step's content.

    Attributes:
        strength: for each token its request's strength at reply starts, 0 elsewhere; of shape (most_tokens,).
        reads: what each push's read-outs have read so far, of shape (pushes, most_tokens, k), k the most of any.
        scores: what each push's gate has read, of shape (pushes, most_tokens).
        values: how far each gate opened, times the token's strength, of shape (pushes, most_tokens).
        ends: what gates read of prompts' ends, if any does.
    """

    strength: Tensor
    reads: Tensor
    scores: Tensor
    values: Tensor

    def __init__(
        self, gates: Sequence[Gate], most_tokens: int, device: torch.device, ends: PromptEndBuffers | None = None
    ) -> None:
        super().__init__()
        self.ends = ends
        pushes, most_reads = len(gates), max(gate.read_outs for gate in gates)
        self.register_buffer("reads", torch.zeros(pushes, most_tokens, most_reads, device=device), persistent=False)
        self.register_buffer("strength", torch.zeros(most_tokens, device=device), persistent=False)
        self.register_buffer("scores", torch.zeros(pushes, most_tokens, device=device), persistent=False)
        self.register_buffer("values", torch.zeros(pushes, most_tokens, device=device), persistent=False)
        self.any = False  # whether this step has any reply start; looked at in eager mode only


class LayerSteering(nn.Module):
    """What one decoder layer's input is read for and pushed along."""

    def __init__(self, steering: Steering, layer: int, step: StepBuffers, device: torch.device, eager: bool) -> None:
        super().__init__()
        self.layer, self.step, self.eager = layer, step, eager
        self.pushes = steering.pushes
        for index, item in enumerate(steering.pushes):
            for name, vectors in (("w", item.gate.w), ("r", item.directions)):
                if layer in vectors:
                    vector = vectors[layer].to(device, torch.float32)
                    self.register_buffer(f"{name}{index}", vector, persistent=False)

    def forward(self, hidden: Tensor, residual: Tensor | None) -> Tensor:
        """The hidden states whose sum with the residual is the pushed stream.

        Args:
            hidden: of shape (tokens, d).
            residual: what is to be added to them, or None.
        """
        silent = self.eager and not self.step.any  # never while tracing: a captured graph must hold the push
        count = hidden.shape[0]
        for index, item in enumerate(self.pushes):
            if self.layer in item.gate.w and (item.reads_prompt_end or not silent):
                self._read(index, item, hidden, residual, count)
        if silent:
            return hidden
        for index, item in enumerate(self.pushes):
            if self.layer in item.directions:
                value = self.step.values[index, :count]
                hidden = push(hidden, value, getattr(self, f"r{index}"), item.strength)
        return hidden

    def _read(self, index: int, item: Push, hidden: Tensor, residual: Tensor | None, count: int) -> None:
        gate, step = item.gate, self.step
        stream = hidden if residual is None else hidden.float() + residual.float()
        w = getattr(self, f"w{index}")
        reads = read_out(stream, w[..., : stream.shape[-1]], gate.normalised)
        lowest, ends = self.layer == gate.layers[0], step.ends if item.reads_prompt_end else None
        if ends is not None:
            ends.add(index, read_out(stream, w[..., stream.shape[-1] :]), lowest)
        if not lowest:
            reads = reads + step.reads[index, :count, : gate.read_outs]
        step.reads[index, :count, : gate.read_outs] = reads
        if self.layer == gate.layer:
            reads = reads if ends is None else ends.with_means(index, reads)
            score = loudest(reads, gate.gates)
            step.scores[index, :count] = score
            step.values[index, :count] = gate_value(score, gate.threshold, gate.ceiling) * step.strength[:count]


def steer_layers(
    model: nn.Module, steering: Steering, count: int, most_tokens: int, slots: int, *, eager: bool
) -> StepBuffers:
    """Give the decoder layers of a vLLM model their part of the steering; returns what the runner fills each step.

    Args:
        count: how many decoder layers the model has.
        most_tokens: in one step, with padding.
        slots: how many requests' reads are kept.
        eager: the model is neither compiled nor captured, so steps without a reply start can be left alone.

    Raises:
        SteeringError: if the layers are not found, or take arguments that are not known.
    """
    if steering.positions != "reply_start":
        raise SteeringError("vLLM runs prompts in pieces, so only steerings that act at reply starts can be served.")
    layers = find_layers(model, count)
    if steering.layers[-1] >= len(layers):
        raise SteeringError(f"This steering reaches layer {steering.layers[-1]}, and the model has {len(layers)}.")
    device = next(model.parameters()).device
    gates, ends = [item.gate for item in steering.pushes], None
    if steering.prompt_end is not None:
        read_outs, marker = [gate.read_outs for gate in gates], steering.reply_start
        sizes = (len(marker), period(marker), most_tokens, slots)
        ends = PromptEndBuffers(read_outs, steering.prompt_end, *sizes, device)
    step = StepBuffers(gates, most_tokens, device, ends)
    for number in steering.layers:
        layer = layers[number]
        places = _places(layer)
        part = LayerSteering(steering, number, step, device, eager)
        layer.register_forward_pre_hook(_hook(part, places), with_kwargs=True)
    return step


def find_layers(model: nn.Module, count: int) -> nn.ModuleList:
    """The one outermost list of as many modules as the model has decoder layers."""
    found = layer_lists(model, count)
    if len(found) != 1:
        raise SteeringError(
            f"{type(model).__name__} has {len(found)} lists of {count} layers where one was expected; "
            "this architecture cannot be steered in vLLM."
        )
    return next(iter(found.values()))


def _places(layer: nn.Module) -> Mapping[str, int]:
    """Where hidden states and residual stand among the layer's arguments."""
    names = list(inspect.signature(layer.forward).parameters)
    if HIDDEN not in names or not KNOWN.issuperset(names):
        raise SteeringError(
            f"{type(layer).__name__} takes {', '.join(names)}: how its residual stream is made up is not known, "
            "so it cannot be steered in vLLM."
        )
    return {name: names.index(name) for name in (HIDDEN, RESIDUAL) if name in names}


def _hook(part: LayerSteering, places: Mapping[str, int]) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def given(name: str) -> Any:
            place = places.get(name)
            return None if place is None else args[place] if place < len(args) else kwargs.get(name)

        steered = part(given(HIDDEN), given(RESIDUAL))
        place = places[HIDDEN]
        if place < len(args):
            return (*args[:place], steered, *args[place + 1 :]), kwargs
        return args, {**kwargs, HIDDEN: steered}

    return hook
