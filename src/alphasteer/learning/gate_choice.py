"""Which layers the gate reads: those that best separate prompts it has not seen, where few benign ones may open it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from alphasteer.learning.calibration import Calibration, calibrate
from alphasteer.learning.crossing import LayerFit, Scores
from alphasteer.learning.gates import gate_from_moments
from alphasteer.learning.readings import ByLayer
from alphasteer.learning.roc import mean_area
from alphasteer.learning.settings import FitSettings
from alphasteer.steering.formula import gate_score

FALSE_OPENINGS = 0.05
"""Gates are compared by the part of the ROC curve up to this share of benign prompts."""
MUS = (3.0, 10.0, 30.0)
"""Unseen prompts of the fit's own sources favour mu = 1, but kinds that no source holds then open the gate three to
four times as often (docs/method.md)."""
ALPHAS = (1.0, 10.0, 100.0)
"""Factors on the ridge ``settings.alpha``: few prompts want a large one."""
MOST_LAYERS = 7
"""A gate reads at most so many layers."""


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
class GateCandidate:
    """A fitted gate and how well its likes separate prompts that they have not seen (see ``crossing``).

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


def fit_candidates(
    examined: Examined,
    layers: Sequence[int],
    settings: FitSettings,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> list[GateCandidate]:
    """Gates of every single layer and weighting, best first; ties go to the lower layer."""
    hard = settings.null_space == "hard"
    mus = [None] if hard else list(MUS) if settings.mu is None else [settings.mu]
    candidates = []
    for layer in progress(layers):
        sides = [
            {name: activations.fit[layer] for name, activations in side.items()}
            for side in (examined.benign, examined.malicious)
        ]
        fitted = LayerFit(*sides, weigh=not hard)
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
    """The best single gate, and the means of the best two, three, ... layers' gates; best first."""
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
    """Of single-layer gates, the best of each layer; the best layer first."""
    best: dict[int, GateCandidate] = {}
    for candidate in sorted(candidates, key=_rank):
        best.setdefault(candidate.layer, candidate)
    return list(best.values())


def calibrated(gate: GateCandidate, examined: Examined, settings: FitSettings) -> Calibration:
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
