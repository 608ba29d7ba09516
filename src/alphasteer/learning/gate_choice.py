"""Which layer reads the gate: the one whose gate separates held-out prompts best where few benign ones may open it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphasteer.activations import Moments
from alphasteer.learning.calibration import Calibration, calibrate
from alphasteer.learning.gates import gate_from_moments
from alphasteer.learning.settings import FitSettings

FALSE_OPENINGS = 0.05
"""Gates are compared by the part of the ROC curve up to this share of benign prompts."""
MUS = (1.0, 10.0, 100.0)
ALPHAS = (1.0, 10.0, 100.0)
"""Factors on the ridge ``settings.alpha``: few prompts want a large one."""

ByLayer = Mapping[int, Tensor]


@dataclass(frozen=True)
class Activations:
    """Activations of shape (n, d) by layer, of one source's two parts."""

    fit: ByLayer
    held_out: ByLayer


@dataclass(frozen=True)
class GateCandidate:
    """A fitted gate and how well it separates held-out prompts.

    Attributes:
        layer, mu, alpha: how it was fitted; mu is None for a hard null space.
        w: the read-out, float32, of shape (d,), scaled so that the fit's malicious prompts score 1 on average.
        partial_auc: area under the ROC curve up to ``FALSE_OPENINGS``, standardized to 0.5 (chance) .. 1 (McClish),
            averaged over malicious sources.
        auc: the whole area, likewise averaged.
        calibration: threshold, ceiling and what they open.
    """

    layer: int
    mu: float | None
    alpha: float
    w: Tensor
    partial_auc: float
    auc: float
    calibration: Calibration


def fit_candidates(
    benign: Mapping[str, Activations],
    malicious: Mapping[str, Activations],
    layers: Sequence[int],
    settings: FitSettings,
    progress: Callable[[Sequence[int]], Sequence[int]] = lambda layers: layers,
) -> list[GateCandidate]:
    """Gates of every layer and weighting, best first; ties go to the lower layer."""
    candidates = []
    for layer in progress(layers):
        moments = [
            _total([Moments.of(a.fit[layer]) for a in side.values() if len(a.fit[layer])])
            for side in (benign, malicious)
        ]
        mus = [None] if settings.null_space == "hard" else list(MUS) if settings.mu is None else [settings.mu]
        for mu in mus:
            for factor in ALPHAS:
                candidates.append(_candidate(layer, mu, settings.alpha * factor, moments, benign, malicious, settings))
    return sorted(candidates, key=lambda c: (-c.partial_auc, c.layer))


def _total(moments: Sequence[Moments]) -> Moments:
    total = moments[0]
    for other in moments[1:]:
        total = total + other
    return total


def _candidate(
    layer: int,
    mu: float | None,
    alpha: float,
    moments: Sequence[Moments],
    benign: Mapping[str, Activations],
    malicious: Mapping[str, Activations],
    settings: FitSettings,
) -> GateCandidate:
    w = gate_from_moments(
        moments[0],
        moments[1],
        null_space=settings.null_space,
        mu=mu or 0.0,
        null_share=settings.null_share,
        alpha=alpha,
    )
    w = (w / (w @ moments[1].mean)).float()  # readable scores: malicious prompts of the fit are 1 on average
    scores = [{name: a.held_out[layer] @ w for name, a in side.items()} for side in (benign, malicious)]
    areas = [(_area(scores[0], s, FALSE_OPENINGS), _area(scores[0], s, None)) for s in scores[1].values() if len(s)]
    calibration = calibrate(
        {k: s for k, s in scores[0].items() if len(s)},
        {k: s for k, s in scores[1].items() if len(s)},
        budget=settings.benign_budget,
        ceiling_quantile=settings.ceiling_quantile,
    )
    partial, whole = (sum(values) / len(values) for values in zip(*areas, strict=True))
    return GateCandidate(layer, mu, alpha, w, partial, whole, calibration)


def _area(benign: Mapping[str, Tensor], malicious: Tensor, up_to: float | None) -> float:
    from sklearn.metrics import roc_auc_score

    low = torch.cat(list(benign.values()))
    labels = torch.cat([torch.zeros(len(low)), torch.ones(len(malicious))])
    return float(roc_auc_score(labels.numpy(), torch.cat([low, malicious]).numpy(), max_fpr=up_to))
