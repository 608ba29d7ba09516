"""The two forms of a steering: one gate that drives many layers, and the paper's gate a layer."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from alphasteer.learning.calibration import Calibration
from alphasteer.learning.gate_choice import GateCandidate, best_by_layer
from alphasteer.learning.joint_gate import ChosenGate
from alphasteer.prompts import ChatTemplate
from alphasteer.steering import Gate, Push, Steering


def one_gate(
    gate: ChosenGate,
    calibration: Calibration,
    directions: Mapping[int, Tensor],
    strength: float,
    template: ChatTemplate,
) -> Steering:
    """The default: one calibrated gate decides, every layer of ``directions`` is pushed, at reply starts only."""
    push = Push(Gate(gate.w, calibration.threshold, calibration.ceiling), directions, strength)
    prompt_end = template.prompt_end if push.reads_prompt_end else None
    return Steering((push,), tuple(template.reply_start), prompt_end=prompt_end)


def gate_per_layer(
    gates: Sequence[GateCandidate], directions: Mapping[int, Tensor], strength: float, reply_start: Sequence[int]
) -> Steering:
    """The paper's: each pushed layer has a linear gate of its own (its best), at every prompt position."""
    by_layer = {candidate.layer: candidate for candidate in best_by_layer(gates)}
    vectors = {layer: r for layer, r in directions.items() if layer in by_layer}
    pushes = [Push(Gate(by_layer[layer].w), {layer: r}, strength) for layer, r in vectors.items()]
    return Steering(tuple(pushes), tuple(reply_start), "prompt")


def between(directions: Mapping[int, Tensor], first: int, last: int) -> dict[int, Tensor]:
    """The directions of a window of layers, both ends included, in the artefact's float32."""
    return {layer: directions[layer].float() for layer in range(first, last + 1)}
