"""The gate: a read-out for each kind of malicious prompts, over the layers where it best separates kinds not seen."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from alphasteer.learning.calibration import Calibration, benign_threshold, calibrate
from alphasteer.learning.crossing import FOLDS, LayerFit, Scores
from alphasteer.learning.gates import gate_from_moments
from alphasteer.learning.kinds import kinds, two_kinds
from alphasteer.learning.readings import ByLayer
from alphasteer.learning.roc import mean_area
from alphasteer.learning.settings import FitSettings
from alphasteer.steering.formula import gate_score

FALSE_OPENINGS = 0.05
"""Gates are compared by the part of the ROC curve up to this share of benign prompts."""
MUS = (3.0, 10.0, 30.0, 100.0)
"""Unseen prompts of the fit's own sources favour mu = 1, but kinds that no source holds then open the gate three to
four times as often; read-outs of jailbreaks want the largest (docs/method.md)."""
ALPHAS = (1.0, 10.0, 100.0)
"""Factors on the ridge ``settings.alpha``: few prompts want a large one."""
MOST_LAYERS = 7
"""A read-out reads at most so many layers."""
FAINTEST = 0.05
"""A read-out whose benign prompts score even less than this opens here: malicious ones score 1 on average."""


@dataclass(frozen=True)
class Activations:
    """Activations of shape (n, d) by layer, of one source's two parts."""

    fit: ByLayer
    held_out: ByLayer


@dataclass(frozen=True)
class Examined:
    """The activations on which gates are fitted, chosen and calibrated, by source."""

    benign: Mapping[str, Activations]
    malicious: Mapping[str, Activations]


@dataclass(frozen=True)
class Kind:
    """What the read-out for one kind of malicious prompts is fitted on.

    Attributes:
        examined: all benign prompts, and the malicious ones of this kind.
        folds: by malicious source, the cross-fitting fold of each prompt, kinds within the kind; None to draw them.
    """

    examined: Examined
    folds: Mapping[str, Tensor] | None = None


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
    """The gate that decides: a read-out for each kind of malicious prompts, of which the largest counts.

    Attributes:
        w: the read-outs by layer, float32, of shape (k, d); each in units of the score up to which its share of the
            budget keeps it shut on the fit's benign prompts.
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


def by_kind(examined: Examined, settings: FitSettings) -> list[Kind]:
    """The malicious prompts in two kinds, or one where they are few; the paper's form and null space know one."""
    if settings.null_space == "hard" or settings.preset == "paper":
        return [Kind(examined)]
    layers = sorted(next(iter(examined.malicious.values())).fit)
    layer = layers[len(layers) // 2]
    found = []
    for masks in two_kinds(_layer(examined.malicious, layer)):
        chosen = {
            name: Activations({n: rows[masks[name]] for n, rows in activations.fit.items()}, activations.held_out)
            for name, activations in examined.malicious.items()
        }
        found.append(Kind(Examined(examined.benign, chosen), kinds(_layer(chosen, layer), FOLDS)))
    return found


def _layer(side: Mapping[str, Activations], layer: int) -> dict[str, Tensor]:
    return {name: activations.fit[layer] for name, activations in side.items()}


def fit_candidates(
    kind: Kind,
    layers: Sequence[int],
    settings: FitSettings,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> list[GateCandidate]:
    """Read-outs of every single layer and weighting, best first; ties go to the lower layer."""
    hard = settings.null_space == "hard"
    mus = [None] if hard else list(MUS) if settings.mu is None else [settings.mu]
    candidates = []
    for layer in progress(layers):
        sides = [_layer(side, layer) for side in (kind.examined.benign, kind.examined.malicious)]
        fitted = LayerFit(*sides, weigh=not hard, folds=kind.folds)
        for mu in mus:
            for alpha in (settings.alpha * factor for factor in ALPHAS):
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
    return sorted(candidates, key=_rank)


def combine_layers(singles: Sequence[GateCandidate]) -> list[GateCandidate]:
    """The best single read-out, and the means of the best two, three, ... layers' read-outs; best first."""
    best = best_by_layer(singles)[:MOST_LAYERS]
    combined = [best[0]]
    for count in range(2, len(best) + 1):
        gates = best[:count]
        w = {layer: vector / count for gate in gates for layer, vector in gate.w.items()}
        benign, malicious = (
            {name: torch.stack([scores[name] for scores in side]).mean(0) for name in side[0]}
            for side in ([gate.benign for gate in gates], [gate.malicious for gate in gates])
        )
        combined.append(_judged(w, tuple(fit for gate in gates for fit in gate.fits), benign, malicious))
    return sorted(combined, key=_rank)


def best_by_layer(candidates: Sequence[GateCandidate]) -> list[GateCandidate]:
    """Of single-layer read-outs, the best of each layer; the best layer first."""
    best: dict[int, GateCandidate] = {}
    for candidate in sorted(candidates, key=_rank):
        best.setdefault(candidate.layer, candidate)
    return list(best.values())


def join(read_outs: Sequence[GateCandidate], budget: float) -> ChosenGate:
    """One gate of several read-outs: each opens it at 1, where an equal share of the benign budget is beyond.

    The shares are measured on the fit's own benign prompts, cross-fitted: what is held out is left to the threshold.
    """
    units = [
        max(FAINTEST, benign_threshold(torch.cat(list(read_out.benign.values())), budget / len(read_outs)))
        for read_out in read_outs
    ]
    layers = sorted({layer for read_out in read_outs for layer in read_out.w})
    nothing = torch.zeros_like(next(iter(read_outs[0].w.values())))
    w = {
        layer: torch.stack([r.w.get(layer, nothing) / unit for r, unit in zip(read_outs, units, strict=True)])
        for layer in layers
    }
    return ChosenGate(w, tuple(read_outs))


def calibrated(gate: ChosenGate, examined: Examined, settings: FitSettings) -> Calibration:
    """Threshold and ceiling from held-out prompts, on which nothing was fitted and no gate chosen.

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
    )


def _rank(candidate: GateCandidate) -> tuple[float, int, int]:
    return -candidate.partial_auc, len(candidate.w), candidate.layer


def _judged(
    w: ByLayer, fits: tuple[tuple[int, float | None, float], ...], benign: Scores, malicious: Scores
) -> GateCandidate:
    return GateCandidate(
        w, fits, benign, malicious, mean_area(benign, malicious, FALSE_OPENINGS), mean_area(benign, malicious)
    )
