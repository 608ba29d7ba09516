"""The gate: a read-out for each kind of malicious prompts, over the layers where it best separates kinds not seen."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import torch
from torch import Tensor

from alphasteer.learning.calibration import Calibration, benign_threshold, calibrate
from alphasteer.learning.crossing import LayerFit, Scores
from alphasteer.learning.gates import gate_from_moments
from alphasteer.learning.kinds import Kind
from alphasteer.learning.readings import Activations, ByLayer, Examined, layer_of
from alphasteer.learning.roc import mean_area
from alphasteer.learning.settings import FitSettings
from alphasteer.steering.formula import gate_score

FALSE_OPENINGS = 0.05
"""Gates are compared by the part of the ROC curve up to this share of benign prompts."""
MUS = (10.0, 30.0, 100.0)
"""Not below 10: a smaller mu separates prompts of the fit's own sources better, but kinds that no source holds then
open the gate more often; read-outs of jailbreaks want the largest (docs/method.md)."""
ALPHAS = {"soft": (10.0, 100.0), "hard": (1.0, 10.0, 100.0)}
"""Factors on the ridge ``settings.alpha``; that the soft null space wants none smaller has the same reason."""
MOST_LAYERS = 7
"""A read-out reads at most so many layers."""
SHARES = tuple(n / 10 for n in range(1, 10))
"""Of two read-outs, the first may get these shares of the budget."""
OPENS = 1.0
"""The score from which benign prompts of kinds not seen go beyond their budget (see ``join``)."""
KNOWN = 5_000
"""A gate learned from fewer benign prompts gets as many times its budget for kinds left out as they are too few. The
number lies between the two sizes that were measured, 875 and 8,800 (docs/frontier.md)."""
MOST_UNSEEN = 0.1
"""But not more than this: by then held-out prompts decide where the gate opens."""
FAINTEST = 0.05
"""A read-out whose benign prompts score even less than this opens here: malicious ones score 1 on average."""


@dataclass(frozen=True)
class GateCandidate:
    """A fitted read-out and how well its likes separate prompts that they have not seen (see ``crossing``).

    Attributes:
        w: the read-out by layer, float32, of shape (d,), scaled so that the fit's malicious prompts score 1 on average.
        fits: how each layer's read-out was fitted: (layer, mu, alpha); mu is None for a hard null space.
        benign, malicious: by source, the fit's prompts' scores by read-outs that have not seen them.
        partial_auc: area under the ROC curve of these up to ``FALSE_OPENINGS``, standardized to 0.5 (chance) .. 1
            (McClish), averaged over pairs of a benign and a malicious source: a small source counts like a large one.
        auc: the whole area, likewise averaged.
    """

    w: ByLayer
    fits: tuple[tuple[int, float | None, float], ...]
    benign: Scores
    malicious: Scores
    partial_auc: float
    auc: float

    @property
    def layer(self) -> int:
        """The highest layer that it reads."""
        return max(self.w)


@dataclass(frozen=True)
class ChosenGate:
    """The gate that decides: several read-outs, of which the largest counts.

    Attributes:
        w: the read-outs by layer, float32, of shape (k, d): one for each kind of malicious prompts, in units of the
            score up to which its share of the budget keeps it shut on benign prompts of kinds that it has not seen; or
            the means of such (see ``mean_gate``).
        read_outs: what they are made of.
    """

    w: ByLayer
    read_outs: tuple[GateCandidate, ...]

    def widened(self, before: int, after: int) -> "ChosenGate":
        """The same gate for activations with so many more columns on either side, which it does not read."""
        return replace(self, w={n: torch.nn.functional.pad(rows, (before, after)) for n, rows in self.w.items()})

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


def fit_candidates(
    kind: Kind,
    layers: Sequence[int],
    settings: FitSettings,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> list[list[GateCandidate]]:
    """By folding, the read-outs of every single layer and weighting, best first; ties go to the lower layer."""
    hard = settings.null_space == "hard"
    mus = [None] if hard else list(MUS) if settings.mu is None else [settings.mu]
    drawn: list[list[GateCandidate]] = [[] for _ in kind.folds]
    for layer in progress(layers):
        sides = [layer_of(side, layer) for side in (kind.examined.benign, kind.examined.malicious)]
        for candidates, folds in zip(drawn, kind.folds, strict=True):
            fitted = LayerFit(*sides, weigh=not hard, folds=folds)
            for mu in mus:
                for alpha in (settings.alpha * factor for factor in ALPHAS[settings.null_space]):
                    solve = partial(
                        gate_from_moments,
                        null_space=settings.null_space,
                        mu=mu or 0.0,
                        null_share=settings.null_share,
                        alpha=alpha,
                    )
                    crossed = fitted.fit(solve)
                    fits = ((layer, mu, alpha),)
                    candidates.append(_judged({layer: crossed.w}, fits, crossed.benign, crossed.malicious))
    return [sorted(candidates, key=_rank) for candidates in drawn]


def combine_layers(singles: Sequence[GateCandidate]) -> list[GateCandidate]:
    """The best single read-out, and the means of the best two, three, ... layers' read-outs; best first."""
    best = best_by_layer(singles)[:MOST_LAYERS]
    return sorted((mean_read_out(best[:count]) for count in range(1, len(best) + 1)), key=_rank)


def mean_read_out(read_outs: Sequence[GateCandidate]) -> GateCandidate:
    """The mean of several read-outs, which scores what they score on average; 0 where one does not read."""
    count = len(read_outs)
    if count == 1:
        return read_outs[0]
    w: dict[int, Tensor] = {}
    for read_out in read_outs:
        for layer, vector in read_out.w.items():
            w[layer] = w.get(layer, torch.zeros_like(vector)) + vector / count
    benign, malicious = (
        {name: torch.stack([scores[name] for scores in side]).mean(0) for name in side[0]}
        for side in ([r.benign for r in read_outs], [r.malicious for r in read_outs])
    )
    return _judged(w, tuple(fit for read_out in read_outs for fit in read_out.fits), benign, malicious)


def best_by_layer(candidates: Sequence[GateCandidate]) -> list[GateCandidate]:
    """Of single-layer read-outs, the best of each layer; the best layer first."""
    best: dict[int, GateCandidate] = {}
    for candidate in sorted(candidates, key=_rank):
        best.setdefault(candidate.layer, candidate)
    return list(best.values())


def unseen_budget(budget: float, n: int) -> float:
    """The share of benign prompts of kinds not seen that may open a gate learned from n benign prompts.

    Read-outs of few prompts tell unseen kinds poorly apart, so that the budget itself would cost most refusals there,
    while held-out prompts ask for far less (docs/frontier.md, "The starter prompts alone").
    """
    return max(budget, min(MOST_UNSEEN, budget * KNOWN / n))


def join(read_outs: Sequence[GateCandidate], budget: float, malicious: Mapping[str, Activations]) -> ChosenGate:
    """One gate of several read-outs: each opens it at 1, where its share of the budget is beyond.

    The shares are measured on the fit's own benign prompts, each scored by read-outs that have not seen its kind. Of
    two read-outs, the first gets the share with which the gate opens on most held-out malicious prompts, source by
    source alike; where several do, the most even one. What is said of these prompts is thus the winner's own score.

    Args:
        read_outs: as chosen for each kind of malicious prompts.
        budget: share of benign prompts of kinds not seen that may open it (see ``unseen_budget``).
        malicious: by source, with held-out activations.
    """
    firsts = [1.0] if len(read_outs) == 1 else sorted(SHARES, key=lambda share: abs(share - 0.5))
    gates = [_joined(read_outs, [budget * first, budget * (1 - first)][: len(read_outs)]) for first in firsts]

    def opened(gate: ChosenGate) -> float:
        held_out = [gate_score(a.held_out, gate.w) for a in malicious.values() if len(a.held_out[gate.layer])]
        return sum(float((scores > OPENS).double().mean()) for scores in held_out)

    return max(gates, key=opened)


def _joined(read_outs: Sequence[GateCandidate], budgets: Sequence[float]) -> ChosenGate:
    units = [
        max(FAINTEST, benign_threshold(torch.cat(list(read_out.benign.values())), budget))
        for read_out, budget in zip(read_outs, budgets, strict=True)
    ]
    layers = sorted({layer for read_out in read_outs for layer in read_out.w})
    nothing = torch.zeros_like(next(iter(read_outs[0].w.values())))
    w = {
        layer: torch.stack([r.w.get(layer, nothing) / unit for r, unit in zip(read_outs, units, strict=True)])
        for layer in layers
    }
    return ChosenGate(w, tuple(read_outs))


def mean_gate(gates: Sequence[ChosenGate]) -> ChosenGate:
    """The gate whose score is the mean of theirs: its read-outs are the means of every choice of one from each."""
    layers = sorted({layer for gate in gates for layer in gate.w})
    width = next(iter(gates[0].w.values())).shape[1]
    w = {
        layer: torch.stack(
            [
                torch.stack(chosen).mean(0)
                for chosen in product(*(g.w.get(layer, torch.zeros(len(g.read_outs), width)) for g in gates))
            ]
        )
        for layer in layers
    }
    return ChosenGate(w, tuple(read_out for gate in gates for read_out in gate.read_outs))


def calibrated(gate: ChosenGate, examined: Examined, settings: FitSettings, lowest: float = OPENS) -> Calibration:
    """Threshold and ceiling from held-out prompts; on the benign ones nothing was fitted and nothing chosen.

    The threshold is never below ``lowest``: held-out prompts are of the fit's kinds, and speak for no others.

    Raises:
        LearningError: if there are too few for the budget.
    """
    benign, malicious = (
        {name: gate_score(a.held_out, gate.w) for name, a in side.items() if len(a.held_out[gate.layer])}
        for side in (examined.benign, examined.malicious)
    )
    return calibrate(
        benign,
        malicious,
        budget=settings.benign_budget,
        source_budget=settings.source_budget,
        ceiling_quantile=settings.ceiling_quantile,
        lowest=lowest,
    )


def _rank(candidate: GateCandidate) -> tuple[float, int, int]:
    return -candidate.partial_auc, len(candidate.w), candidate.layer


def _judged(
    w: ByLayer, fits: tuple[tuple[int, float | None, float], ...], benign: Scores, malicious: Scores
) -> GateCandidate:
    return GateCandidate(
        w, fits, benign, malicious, mean_area(benign, malicious, FALSE_OPENINGS), mean_area(benign, malicious)
    )
