"""Which layers the gate reads: those that separate held-out prompts best where few benign ones may open it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphasteer.activations import Moments
from alphasteer.learning.calibration import Calibration, calibrate
from alphasteer.learning.gates import gate_from_moments
from alphasteer.learning.readings import ByLayer
from alphasteer.learning.settings import FitSettings
from alphasteer.steering.formula import gate_score

FALSE_OPENINGS = 0.05
"""Gates are compared by the part of the ROC curve up to this share of benign prompts."""
MUS = (10.0, 30.0, 100.0)
"""Held-out prompts of the fit's own sources favour mu = 1, but kinds that no source holds then open the gate three to
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
class GateCandidate:
    """A fitted gate and how well it separates held-out prompts.

    Attributes:
        w: the read-out by layer, float32, of shape (d,), scaled so that the fit's malicious prompts score 1 on average.
        fits: how each layer's read-out was fitted: (layer, mu, alpha); mu is None for a hard null space.
        partial_auc: area under the ROC curve up to ``FALSE_OPENINGS``, standardized to 0.5 (chance) .. 1 (McClish),
            averaged over pairs of a benign and a malicious source: a small source counts like a large one.
        auc: the whole area, likewise averaged.
        calibration: threshold, ceiling and what they open.
    """

    w: ByLayer
    fits: tuple[tuple[int, float | None, float], ...]
    partial_auc: float
    auc: float
    calibration: Calibration

    @property
    def layer(self) -> int:
        """The highest layer that it reads."""
        return max(self.w)


@dataclass(frozen=True)
class Examined:
    """The activations on which gates are fitted and compared, by source."""

    benign: Mapping[str, Activations]
    malicious: Mapping[str, Activations]


def fit_candidates(
    examined: Examined,
    layers: Sequence[int],
    settings: FitSettings,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> list[GateCandidate]:
    """Gates of every single layer and weighting, best first; ties go to the lower layer."""
    candidates = []
    for layer in progress(layers):
        benign, malicious = (
            Moments.pooled(a.fit[layer] for a in side.values() if len(a.fit[layer]))
            for side in (examined.benign, examined.malicious)
        )
        mus = [None] if settings.null_space == "hard" else list(MUS) if settings.mu is None else [settings.mu]
        for mu in mus:
            for alpha in (settings.alpha * factor for factor in ALPHAS):
                w = gate_from_moments(
                    benign,
                    malicious,
                    null_space=settings.null_space,
                    mu=mu or 0.0,
                    null_share=settings.null_share,
                    alpha=alpha,
                )
                scaled = (w / (w @ malicious.mean)).float()  # readable: the fit's malicious prompts score 1 on average
                candidates.append(_judge({layer: scaled}, ((layer, mu, alpha),), examined, settings))
    return sorted(candidates, key=_rank)


def combine_layers(singles: Sequence[GateCandidate], examined: Examined, settings: FitSettings) -> list[GateCandidate]:
    """The best single gate, and the means of the best two, three, ... layers' gates; best first."""
    best = best_by_layer(singles)[:MOST_LAYERS]
    combined = [best[0]]
    for count in range(2, len(best) + 1):
        w = {layer: vector / count for gate in best[:count] for layer, vector in gate.w.items()}
        combined.append(_judge(w, tuple(fit for gate in best[:count] for fit in gate.fits), examined, settings))
    return sorted(combined, key=_rank)


def best_by_layer(candidates: Sequence[GateCandidate]) -> list[GateCandidate]:
    """Of single-layer gates, the best of each layer; the best layer first."""
    best: dict[int, GateCandidate] = {}
    for candidate in sorted(candidates, key=_rank):
        best.setdefault(candidate.layer, candidate)
    return list(best.values())


def _rank(candidate: GateCandidate) -> tuple[float, int, int]:
    return -candidate.partial_auc, len(candidate.w), candidate.layer


def _judge(
    w: ByLayer,
    fits: tuple[tuple[int, float | None, float], ...],
    examined: Examined,
    settings: FitSettings,
) -> GateCandidate:
    def score(side: Mapping[str, Activations]) -> dict[str, Tensor]:
        streams = {name: a.held_out for name, a in side.items() if len(a.held_out[fits[0][0]])}
        return {name: gate_score(held, w) for name, held in streams.items()}

    benign, malicious = score(examined.benign), score(examined.malicious)
    pairs = [(low, high) for low in benign.values() for high in malicious.values()]
    partial, whole = (
        sum(area_under_roc(*pair, up_to) for pair in pairs) / len(pairs) for up_to in (FALSE_OPENINGS, None)
    )
    calibration = calibrate(
        benign, malicious, budget=settings.benign_budget, ceiling_quantile=settings.ceiling_quantile
    )
    return GateCandidate(w, fits, partial, whole, calibration)


def area_under_roc(low: Tensor, high: Tensor, up_to: float | None = None) -> float:
    """The area under the ROC curve of scores that ought to be low and scores that ought to be high.

    Args:
        low, high: the scores, of shape (n,) and (m,).
        up_to: of the curve up to this share of false openings only, standardized (McClish); None for the whole area.
    """
    from sklearn.metrics import roc_auc_score

    labels = torch.cat([torch.zeros(len(low)), torch.ones(len(high))])
    return float(roc_auc_score(labels.numpy(), torch.cat([low, high]).numpy(), max_fpr=up_to))
