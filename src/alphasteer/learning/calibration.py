"""Threshold and ceiling: where, on held-out prompts, a gate begins to open and where it is open."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from alphasteer.errors import LearningError


@dataclass(frozen=True)
class Calibration:
    """A gate's operating point and what it gives on the held-out prompts.

    Attributes:
        threshold: the score up to which nothing is pushed.
        ceiling: the score from which the push is full.
        opened: by source, the share of held-out prompts whose score is above the threshold.
    """

    threshold: float
    ceiling: float
    opened: Mapping[str, float]


def benign_threshold(scores: Tensor, budget: float) -> float:
    """The smallest score that at most ``budget`` of prompts like these exceed, in expectation.

    The k-th smallest of n scores with k = ceil((n + 1)(1 - budget)): one more exchangeable prompt exceeds it with
    probability at most the budget (split conformal prediction). Where n is too small for that, the largest score.

    Args:
        scores: held-out benign gate scores, of shape (n,).
    """
    ordered = scores.double().sort().values
    rank = math.ceil((len(ordered) + 1) * (1 - budget))
    return float(ordered[min(rank, len(ordered)) - 1])


def calibrate(
    benign: Mapping[str, Tensor], malicious: Mapping[str, Tensor], *, budget: float, ceiling_quantile: float
) -> Calibration:
    """Set a gate's threshold on benign scores and its ceiling on malicious ones.

    The budget holds for the benign sources taken together. The ceiling is the quantile of the malicious scores,
    each source counting equally, but always above the threshold.

    Args:
        benign: by source, held-out gate scores of shape (n,).
        malicious: by source, held-out gate scores of shape (m,).

    Raises:
        LearningError: if a side is empty.
    """
    if not benign or not malicious or not all(len(s) for s in (*benign.values(), *malicious.values())):
        raise LearningError(
            "Calibration needs held-out benign and malicious prompts; give more prompts or hold more out."
        )
    threshold = benign_threshold(torch.cat(list(benign.values())), budget)
    quantiles = [float(s.double().quantile(ceiling_quantile)) for s in malicious.values()]
    spread = float(torch.cat(list(malicious.values())).double().std(unbiased=False))
    # A ceiling at or below the threshold would make the gate a step; a little slope keeps near misses gentle.
    ceiling = max(sum(quantiles) / len(quantiles), threshold + max(0.1 * spread, 1e-6))
    opened = {name: float((s > threshold).double().mean()) for name, s in (*benign.items(), *malicious.items())}
    return Calibration(threshold, ceiling, opened)
