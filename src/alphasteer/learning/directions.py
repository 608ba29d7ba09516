"""The refusal direction: what distinguishes the requests a model refuses from those it complies with."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alphasteer.errors import LearningError


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


def mean_direction(directions: Sequence[Mapping[int, Tensor]]) -> dict[int, Tensor]:
    """The mean of several directions, layer by layer."""
    return {layer: torch.stack([d[layer] for d in directions]).mean(0) for layer in directions[0]}
