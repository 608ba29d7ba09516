"""Second moments: all that the gate regression needs to know of a set of activations."""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from alphasteer.errors import LearningError


@dataclass(frozen=True)
class Moments:
    """Sufficient statistics of activations h_1 ... h_n, in float64; two of them merge by addition.

    Attributes:
        count: n, or the sum of the weights.
        total: the sum of the h_i, of shape (d,).
        outer: the sum of the h_i h_i^T, of shape (d, d).
    """

    count: float
    total: Tensor
    outer: Tensor

    @staticmethod
    def of(activations: Tensor) -> "Moments":
        """The moments of activations of shape (n, d).

        Raises:
            LearningError: if there are none, or one is not finite.
        """
        if activations.ndim != 2 or activations.shape[0] == 0:
            raise LearningError(f"Activations of shape {tuple(activations.shape)} are not (n, d) with n above zero.")
        exact = activations.detach().double().cpu().numpy()
        total = torch.from_numpy(exact.sum(0))
        if not bool(torch.isfinite(total).all()):
            raise LearningError(
                "Some activations are not finite; load the model in bfloat16 or float32 instead of float16."
            )
        # numpy, not torch: it sees a product with the own transpose and reckons half of it.
        return Moments(len(exact), total, torch.from_numpy(exact.T @ exact))

    def __add__(self, other: "Moments") -> "Moments":
        if self.total.shape != other.total.shape:
            raise LearningError(f"Moments of width {len(self.total)} and {len(other.total)} cannot be merged.")
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def scaled(self, weight: float) -> "Moments":
        """The moments with each activation counted ``weight`` times."""
        return Moments(self.count * weight, self.total * weight, self.outer * weight)

    @staticmethod
    def sum(parts: Iterable["Moments"]) -> "Moments":
        """The moments of several sets together; at least one."""
        return reduce(operator.add, parts)

    @staticmethod
    def pooled(parts: Iterable[Tensor]) -> "Moments":
        """The moments of several sets of activations together; at least one."""
        return Moments.sum(map(Moments.of, parts))

    @property
    def mean(self) -> Tensor:
        """The mean activation, of shape (d,)."""
        return self.total / self.count

    @property
    def second(self) -> Tensor:
        """C, the uncentred second moment, of shape (d, d)."""
        return self.outer / self.count
