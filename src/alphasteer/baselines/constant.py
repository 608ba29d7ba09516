"""The gate that is always open, and the steering of methods that have no gate."""

from collections.abc import Mapping

import torch
from torch import Tensor

from alphasteer.learning.evidence import Evidence
from alphasteer.steering import Gate, Push, Steering


def always_open(layer: int, width: int) -> Gate:
    """A gate whose score is 0, above its ceiling, whatever it reads."""
    return Gate({layer: torch.zeros(width)}, threshold=-2.0, ceiling=-1.0)


def ungated(evidence: Evidence, directions: Mapping[int, Tensor], strength: float) -> Steering:
    """Every prompt is pushed, at every position up to the reply's start."""
    gate = always_open(min(directions), evidence.decoder.hidden_size)
    push = Push(gate, directions, strength)
    return Steering((push,), evidence.template.reply_start, "prompt")
