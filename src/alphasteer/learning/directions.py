"""The refusal direction: what distinguishes the requests a model refuses from those it complies with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphasteer.errors import LearningError

FEWEST = 8
"""Fewer refused or complied requests than this give a direction that is mostly noise."""


def refusal_direction(refused: Tensor, complied: Tensor) -> Tensor:
    """r: mean of the refused requests' activations minus mean of the complied ones'.

    Args:
        refused: activations of shape (n, d).
        complied: activations of shape (m, d).

    Returns:
        r of shape (d,), float64, not normalized: strength 1 goes the whole way.

    Raises:
        LearningError: if either is empty or not finite.
    """
    for name, activations in (("refused", refused), ("complied", complied)):
        if activations.shape[0] == 0 or not bool(torch.isfinite(activations).all()):
            raise LearningError(f"The {name} activations are empty or not finite; no refusal direction can be learned.")
    return refused.double().mean(0) - complied.double().mean(0)


@dataclass(frozen=True)
class Contrast:
    """Which requests stand for refusal and which for compliance.

    Attributes:
        refused, complied: indices into the requests that the model replied to.
        rule: how they were chosen: ``own replies``, ``instructed refusals`` or ``benign compliance``.
    """

    refused: Sequence[int]
    complied: Sequence[int]
    rule: str
