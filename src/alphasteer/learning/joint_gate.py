"""The gate that decides: the mean of gates from several views, in units of the score where kinds not seen open it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from alphasteer.learning.calibration import Calibration, calibrate
from alphasteer.learning.crossing import Scores
from alphasteer.learning.gate_choice import GateCandidate
from alphasteer.learning.readings import ByLayer, Examined
from alphasteer.learning.settings import FitSettings
from alphasteer.steering.formula import gate_score, loudest

OPENS = 1.0
"""The score from which benign prompts of kinds not seen go beyond their budget (see ``join``)."""
KNOWN = 5_000
"""A gate learned from fewer benign prompts gets as many times its budget for kinds left out as they are too few. The
number lies between the two sizes that were measured, 875 and 8,800, with two gates (docs/frontier.md)."""
MOST_UNSEEN = 0.1
"""But not more than this: by then held-out prompts decide where the gate opens."""
FAINTEST = 0.05
"""No unit is less: read-outs score 1 on malicious prompts on average, whatever benign ones score."""


@dataclass(frozen=True)
class ChosenGate:
    """The gate that decides: the mean of several gates, of each of which its largest read-out counts.

    Attributes:
        w: the read-outs by layer, float32, of shape (g, k, d): k of each of g gates; in units of the score up to which
            the budget keeps it shut on benign prompts of kinds that it has not seen.
        read_outs: what they are made of.
    """

    w: ByLayer
    read_outs: tuple[GateCandidate, ...]

    @property
    def layer(self) -> int:
        """The highest layer that it reads."""
        return max(self.w)

    @property
    def auc(self) -> float:
        """The read-outs' areas, averaged."""
        return sum(read_out.auc for read_out in self.read_outs) / len(self.read_outs)

    @property
    def partial_auc(self) -> float:
        """The read-outs' partial areas, averaged."""
        return sum(read_out.partial_auc for read_out in self.read_outs) / len(self.read_outs)


def unseen_budget(budget: float, n: int) -> float:
    """The share of benign prompts of kinds not seen that may open a gate learned from n benign prompts.

    Read-outs of few prompts tell unseen kinds poorly apart, so that the budget itself would cost most refusals there,
    while held-out prompts ask for far less (docs/frontier.md, "The starter prompts alone").
    """
    return max(budget, min(MOST_UNSEEN, budget * KNOWN / n))


def beyond(scores: Scores, budget: float) -> float:
    """The smallest score that at most the budget's share of these prompts exceed.

    A source counts as the square root of its size, as in the fit.

    Args:
        scores: by source, of shape (n,).
    """
    values = torch.cat(list(scores.values())).double()
    weights = torch.cat([torch.full((len(of),), len(of) ** -0.5, dtype=torch.float64) for of in scores.values()])
    order = values.argsort(descending=True)
    reached = weights[order].cumsum(0) / weights.sum()  # the share that scores this or more
    within = int((reached <= budget * (1 + 1e-9)).sum())  # whatever rounding makes of the sum
    return float(values[order][min(within, len(values) - 1)])


def join(views: Sequence[Sequence[GateCandidate]], budget: float) -> ChosenGate:
    """One gate of the read-outs of several views: the mean of a gate of each, in which the largest read-out counts.

    Every read-out is in units of the score that its equal share of the budget exceeds, and their mean gate in units of
    the one that the budget exceeds: it opens at 1. What exceeds it is measured on the fit's own benign prompts, each
    scored by read-outs that have not seen its kind. That shares chosen on held-out malicious prompts do no better on
    others stands in docs/frontier.md, "Six gates".

    Args:
        views: the read-outs chosen for each kind of malicious prompts, from each view of the same prompts.
        budget: share of benign prompts of kinds not seen that may open it (see ``unseen_budget``).
    """
    most, every = max(map(len, views)), []
    for read_outs in views:
        gate = [r.over(max(FAINTEST, beyond(r.benign, budget / len(read_outs)))) for r in read_outs]
        every += [*gate, *[gate[0]] * (most - len(gate))]  # as many of each: the first stands again
    means = {name: loudest(torch.stack([r.benign[name] for r in every], -1), len(views)) for name in every[0].benign}
    unit = max(FAINTEST, beyond(means, budget))
    nothing = torch.zeros_like(next(iter(every[0].w.values())))
    w = {
        layer: torch.stack([r.w.get(layer, nothing) / unit for r in every]).reshape(len(views), most, -1)
        for layer in sorted({layer for r in every for layer in r.w})
    }
    if most == 1:  # gates of one read-out are as linear as their mean
        w = {layer: rows.mean(0, keepdim=True) for layer, rows in w.items()}
    return ChosenGate(w, tuple(chain(*views)))


def calibrated(gate: ChosenGate, placings: Sequence[Examined], settings: FitSettings) -> Calibration:
    """Threshold and ceiling from held-out prompts; on the benign ones nothing was fitted and nothing chosen.

    The threshold is never below ``OPENS``: held-out prompts are of the fit's kinds, and speak for no others.

    Args:
        placings: the same prompts, alone and in chats; the budgets hold for each, and the first is what is told of.

    Raises:
        LearningError: if there are too few for the budget.
    """
    lowest = OPENS
    for examined in reversed(placings):
        benign, malicious = (
            {name: gate_score(a.held_out, gate.w) for name, a in side.items() if len(a.held_out[gate.layer])}
            for side in (examined.benign, examined.malicious)
        )
        calibration = calibrate(
            benign,
            malicious,
            budget=settings.benign_budget,
            source_budget=settings.source_budget,
            ceiling_quantile=settings.ceiling_quantile,
            lowest=lowest,
        )
        lowest = calibration.threshold
    return calibration
