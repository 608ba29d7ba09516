"""Setting a steering's thresholds anew on prompts of one's own, from what its gates read and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from alphasteer.errors import LearningError
from alphasteer.learning.calibration import benign_threshold, check_enough
from alphasteer.steering import Gate, Steering

METHOD = "split conformal on the gates' largest excess"
ROUNDING = 1e-6
"""Of the way to the ceiling: keeps the prompt that sets the threshold below it, whatever float32 makes of it."""


def largest_excess(gates: Sequence[Gate], scores: Sequence[Tensor]) -> Tensor:
    """How far each prompt reads beyond a threshold, at the gate where that is furthest, of shape (n,).

    In units of each gate's way from threshold to ceiling: the steering alters a prompt if and only if this is above 0.

    Args:
        gates: with thresholds.
        scores: what each of them reads, of shape (n,).

    Raises:
        LearningError: if a gate has no threshold.
    """
    excesses = []
    for gate, score in zip(gates, scores, strict=True):
        if gate.threshold is None or gate.ceiling is None:
            raise LearningError("The paper's linear gates have no threshold to calibrate; fit the default preset.")
        excesses.append((score.double() - gate.threshold) / (gate.ceiling - gate.threshold))
    return torch.stack(excesses).amax(0)


def recalibrated(steering: Steering, excess: Mapping[str, Tensor], budget: float, *, each_group: bool) -> Steering:
    """The steering with all its thresholds moved alike, so that in expectation it alters at most the budget.

    The ceilings go with them: nearer, a gate would be a step; further, it would push by halves what it pushed wholly.

    Conformal risk control (Angelopoulos et al. 2022, arXiv 2208.02814) of one number, by how much of their way to the
    ceiling the thresholds move: one more prompt exchangeable with the n given ones is altered with probability at most
    ``budget``, whatever the gates are worth and however many act together.

    Args:
        excess: by group of benign prompts, what ``largest_excess`` found, of shape (n,).
        budget: the share of benign prompts that may be altered.
        each_group: the budget holds for every group by itself, not for all prompts together.

    Raises:
        LearningError: if a group is too small for the budget; it says how many prompts would do.
    """
    together = {"all prompts": torch.cat(list(excess.values()))}
    for name, values in (excess if each_group else together).items():
        check_enough(len(values), budget, name)
    shift = max(benign_threshold(values, budget) for values in (excess if each_group else together).values()) + ROUNDING
    pushes = tuple(replace(push, gate=_moved(push.gate, shift)) for push in steering.pushes)
    calibration = {
        "method": METHOD,
        "budget": budget,
        "held_for": "each group" if each_group else "all prompts",
        "n": len(together["all prompts"]),
        "groups": {name: len(values) for name, values in excess.items()},
        "observed": float((together["all prompts"] > shift).double().mean()),
        "opened": {name: float((values > shift).double().mean()) for name, values in excess.items()},
        "threshold": pushes[0].gate.threshold,
        "ceiling": pushes[0].gate.ceiling,
    }
    # What was measured at the former thresholds no longer holds.
    record = {key: value for key, value in steering.record.items() if key != "validation"}
    return replace(steering, pushes=pushes, record={**record, "calibration": calibration})


def _moved(gate: Gate, shift: float) -> Gate:
    assert gate.threshold is not None
    assert gate.ceiling is not None
    moved = shift * (gate.ceiling - gate.threshold)
    return replace(gate, threshold=gate.threshold + moved, ceiling=gate.ceiling + moved)
