"""Cross-fitting: gates judged on prompts of kinds that they have not seen, with none held back from the fit.

What is held out is then free for calibration alone, whose promise would not be exact if gates were chosen on it too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, empty

from alphasteer.activations import Moments

FOLDS = 5

Solve = Callable[[Moments, Moments], Tensor]
"""A read-out from the benign and the malicious moments."""
Side = Mapping[str, Tensor]
"""By source, a layer's activations of shape (n, d)."""
Scores = Mapping[str, Tensor]
"""By source, scores of shape (n,)."""
Folds = Mapping[str, Tensor]
"""By source, the fold of each prompt, 0 .. FOLDS - 1, of shape (n,)."""


@dataclass(frozen=True)
class Crossed:
    """A read-out and what its likes score.

    Attributes:
        w: fitted on all prompts, of shape (d,), scaled so that malicious ones score 1 on average.
        benign, malicious: each prompt's score by the read-out of the other folds, float32.
    """

    w: Tensor
    benign: Scores
    malicious: Scores


class LayerFit:
    """One layer's activations, from which any number of read-outs is fitted."""

    def __init__(self, benign: Side, malicious: Side, *, weigh: bool, folds: tuple[Folds, Folds] | None = None) -> None:
        """Take the moments, fold by fold.

        Args:
            weigh: a source counts as the square root of its size, so that a large one does not outvote the small
                (docs/method.md); else every prompt counts the same.
            folds: those of the benign and of the malicious prompts; folds that are kinds of prompts show what a
                read-out does on kinds that it has not seen. Without, they are drawn.
        """
        self._sides = [{name: rows for name, rows in side.items() if len(rows)} for side in (benign, malicious)]
        self._of = folds or [{name: _drawn_folds(rows) for name, rows in side.items()} for side in self._sides]
        self._folds = [
            [
                Moments.sum(parts)
                if (parts := [_part(rows, of[name] == fold, weigh) for name, rows in side.items() if fold in of[name]])
                else None
                for fold in range(FOLDS)
            ]
            for side, of in zip(self._sides, self._of, strict=True)
        ]

    def fit(self, solves: Sequence[Solve]) -> list[Crossed]:
        """Of each, one read-out on everything and one without each fold."""
        found = [[{name: empty(len(rows)) for name, rows in side.items()} for side in self._sides] for _ in solves]
        for fold in range(FOLDS):
            moments = self._moments(without=fold)
            for solve, sides in zip(solves, found, strict=True):
                other = _read_out(solve, moments)
                for scores, side, of in zip(sides, self._sides, self._of, strict=True):
                    for name, rows in side.items():
                        chosen = of[name] == fold
                        scores[name][chosen] = rows[chosen].float() @ other
        moments = self._moments()
        return [Crossed(_read_out(solve, moments), *sides) for solve, sides in zip(solves, found, strict=True)]

    def read_out(self, solve: Solve) -> Tensor:
        """One read-out on everything, of shape (d,)."""
        return _read_out(solve, self._moments())

    def _moments(self, without: int | None = None) -> tuple[Moments, Moments]:
        benign, malicious = (
            Moments.sum([m for n, m in enumerate(folds) if n != without and m is not None]) for folds in self._folds
        )
        return benign, malicious


def _read_out(solve: Solve, moments: tuple[Moments, Moments]) -> Tensor:
    w = solve(*moments)
    return (w / (w @ moments[1].mean)).float()


def _drawn_folds(rows: Tensor) -> Tensor:
    """The fold of each row: in turn along those sorted by a coordinate, so the prompts' order is no matter."""
    return rows[:, 0].argsort().argsort() % FOLDS


def _part(rows: Tensor, chosen: Tensor, weigh: bool) -> Moments:
    moments = Moments.of(rows[chosen])
    return moments.scaled(len(rows) ** -0.5) if weigh else moments
