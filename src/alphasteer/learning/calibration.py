"""Threshold and ceiling: where, on held-out prompts, a gate begins to open and where it is open."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from alphasteer.errors import LearningError
from alphasteer.learning.roc import area_under_roc

METHOD = "split conformal"
"""How a threshold is set, as the record states it."""


ENOUGH = 4
"""A source keeps a budget of its own if so many of its held-out prompts may be beyond it: for fewer, the promise would
cost more than the budget says (of 60 prompts and 2 %, none could be beyond the threshold)."""


FEWEST_OPENING = 4
"""A malicious source has its say in the ceiling if so many of its held-out prompts open the gate."""

LEAST_WAY = 0.02
"""From the threshold to the ceiling it is at least this share of the malicious scores' standard deviation: a gate that
is a step would make of rounding a whole push or none."""


@dataclass(frozen=True)
class Calibration:
    """A gate's operating point and what it gives on the held-out prompts.

    Attributes:
        threshold: the score up to which nothing is pushed.
        ceiling: the score from which the push is full.
        opened: by source, the share of held-out prompts whose score is above the threshold.
        n: how many benign prompts the threshold was set on.
        observed: the share of them whose score is above it.
        auc: area under the ROC curve of the held-out prompts' scores, all benign against all malicious ones.
        kept_for: the benign sources that were large enough for a budget of their own.
    """

    threshold: float
    ceiling: float
    opened: Mapping[str, float]
    n: int
    observed: float
    auc: float
    kept_for: tuple[str, ...] = ()


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


def fewest_prompts(budget: float) -> int:
    """How many calibration prompts a budget wants: with n of them none below 1 / (n + 1) can be promised."""
    return math.ceil(1 / budget - 1e-9) - 1


def fewest_of_source(budget: float) -> int:
    """How many held-out prompts a source wants to keep a budget of its own (see ``ENOUGH``)."""
    return math.ceil(ENOUGH / budget - 1e-9)


def check_enough(n: int, budget: float, name: str) -> None:
    """Refuse a promise that n calibration prompts cannot give.

    Raises:
        LearningError: saying how many would do, and what budget these allow.
    """
    if n < fewest_prompts(budget):
        raise LearningError(
            f"{n} prompts ({name}) cannot promise a budget of {budget:g}; give at least "
            f"{fewest_prompts(budget)}, or allow {math.ceil(1000 / (n + 1)) / 1000:g}."
        )


def calibrate(
    benign: Mapping[str, Tensor],
    malicious: Mapping[str, Tensor],
    *,
    budget: float,
    source_budget: float | None = None,
    ceiling_quantile: float,
    lowest: float = -math.inf,
) -> Calibration:
    """Set a gate's threshold on benign scores and its ceiling on malicious ones.

    The budget holds for the benign sources taken together, and ``source_budget``, if given, for each by itself that
    has prompts enough for it: then refusals can nowhere rise by more. The ceiling is the smallest of the malicious
    sources' quantiles of scores above the threshold, of sources with ``FEWEST_OPENING`` such prompts: of what opens the
    gate, all but that share opens it fully; but no less than ``LEAST_WAY`` above the threshold.

    Args:
        benign: by source, held-out gate scores of shape (n,).
        malicious: by source, held-out gate scores of shape (m,).
        lowest: the threshold is not below this, whatever the benign scores allow.

    Raises:
        LearningError: if a side is empty, or the benign one too small for the budget.
    """
    if not benign or not malicious or not all(len(s) for s in (*benign.values(), *malicious.values())):
        raise LearningError(
            "Calibration needs held-out benign and malicious prompts; give more prompts or hold more out."
        )
    low, high = (torch.cat(list(side.values())) for side in (benign, malicious))
    check_enough(len(low), budget, "benign, held out")
    threshold = benign_threshold(low, budget)
    large = []
    if source_budget:
        large = [name for name, scores in benign.items() if len(scores) >= fewest_of_source(source_budget)]
        threshold = max([threshold, *(benign_threshold(benign[name], source_budget) for name in large)])
    threshold = max(lowest, threshold)
    opening = [above for s in malicious.values() if len(above := s[s > threshold]) >= FEWEST_OPENING]
    quantiles = [float(above.double().quantile(ceiling_quantile)) for above in opening]
    spread = float(high.double().std(unbiased=False))
    ceiling = max(min(quantiles, default=threshold), threshold + max(LEAST_WAY * spread, 1e-6))
    opened = {name: float((s > threshold).double().mean()) for name, s in (*benign.items(), *malicious.items())}
    observed = float((low > threshold).double().mean())
    return Calibration(threshold, ceiling, opened, len(low), observed, area_under_roc(low, high), tuple(large))
