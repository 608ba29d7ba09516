"""Read-outs: for each kind of malicious prompts one, over the layers where it best separates kinds not seen."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from alphasteer.learning.crossing import LayerFit, Scores
from alphasteer.learning.gates import gate_from_moments
from alphasteer.learning.kinds import Kind
from alphasteer.learning.readings import ByLayer, layer_of
from alphasteer.learning.roc import mean_area
from alphasteer.learning.settings import FitSettings

FALSE_OPENINGS = 0.05
"""Gates are compared by the part of the ROC curve up to this share of benign prompts."""
MUS = (10.0, 30.0, 100.0)
"""Not below 10: a smaller mu separates prompts of the fit's own sources better, but kinds that no source holds then
open the gate more often; read-outs of jailbreaks want the largest (docs/method.md)."""
ALPHAS = {"soft": (10.0, 100.0), "hard": (1.0, 10.0, 100.0)}
"""Factors on the ridge ``settings.alpha``; that the soft null space wants none smaller has the same reason."""
MOST_LAYERS = 7
"""A read-out reads at most so many layers."""


@dataclass(frozen=True)
class GateCandidate:
    """A fitted read-out and how well its likes separate prompts that they have not seen (see ``crossing``).

    Attributes:
        w: the read-out by layer, float32, of shape (d,), scaled so that the fit's malicious prompts score 1 on average.
        fits: how each layer's read-out was fitted: (layer, mu, alpha); mu is None for a hard null space.
        benign, malicious: by source, the fit's prompts' scores by read-outs that have not seen them.
        partial_auc: area under the ROC curve of these up to ``FALSE_OPENINGS``, standardized to 0.5 (chance) .. 1
            (McClish), averaged over pairs of a benign and a malicious source: a small source counts like a large one.
    """

    w: ByLayer
    fits: tuple[tuple[int, float | None, float], ...]
    benign: Scores
    malicious: Scores
    partial_auc: float

    @cached_property
    def auc(self) -> float:
        """The whole area, likewise averaged."""
        return mean_area(self.benign, self.malicious)

    @property
    def layer(self) -> int:
        """The highest layer that it reads."""
        return max(self.w)

    def over(self, unit: float) -> "GateCandidate":
        """The same read-out in another unit: where it scored that, it scores 1."""
        benign, malicious = (
            {name: scores / unit for name, scores in side.items()} for side in (self.benign, self.malicious)
        )
        return replace(self, w={n: w / unit for n, w in self.w.items()}, benign=benign, malicious=malicious)

    def widened(self, before: int, after: int) -> "GateCandidate":
        """The same read-out of activations with so many more columns on either side, which it does not read."""
        return replace(self, w={n: torch.nn.functional.pad(w, (before, after)) for n, w in self.w.items()})


def fit_candidates(
    kind: Kind,
    layers: Sequence[int],
    settings: FitSettings,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> list[list[GateCandidate]]:
    """By folding, the read-outs of every single layer and weighting, best first; ties go to the lower layer."""
    hard = settings.null_space == "hard"
    mus = [None] if hard else list(MUS) if settings.mu is None else [settings.mu]
    weights = [(mu, settings.alpha * factor) for mu in mus for factor in ALPHAS[settings.null_space]]
    form = partial(gate_from_moments, null_space=settings.null_space, null_share=settings.null_share)
    solves = [partial(form, mu=mu or 0.0, alpha=alpha) for mu, alpha in weights]
    drawn: list[list[GateCandidate]] = [[] for _ in kind.folds]
    for layer in progress(layers):
        sides = [layer_of(side, layer) for side in (kind.examined.benign, kind.examined.malicious)]
        for candidates, folds in zip(drawn, kind.folds, strict=True):
            crossed = LayerFit(*sides, weigh=not hard, folds=folds).fit(solves)
            for (mu, alpha), found in zip(weights, crossed, strict=True):
                candidates.append(_judged({layer: found.w}, ((layer, mu, alpha),), found.benign, found.malicious))
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


def _rank(candidate: GateCandidate) -> tuple[float, int, int]:
    return -candidate.partial_auc, len(candidate.w), candidate.layer


def _judged(
    w: ByLayer, fits: tuple[tuple[int, float | None, float], ...], benign: Scores, malicious: Scores
) -> GateCandidate:
    return GateCandidate(w, fits, benign, malicious, mean_area(benign, malicious, FALSE_OPENINGS))
