"""Cross-fitting: gates judged on prompts of kinds that they have not seen, with none held back from the fit.

What is held out is then free for calibration alone, whose promise would not be exact if gates were chosen on it too.
"""

from collections.abc import Callable, Mapping
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
        self._moments: dict[int | None, tuple[Moments, Moments]] = {}  # of both sides, by the fold left out

    def fit(self, solve: Solve) -> Crossed:
        """One read-out on everything and one without each fold."""
        found = [{name: empty(len(rows)) for name, rows in side.items()} for side in self._sides]
        for fold in range(FOLDS):
            other = self.read_out(solve, without=fold)
            for scores, side, of in zip(found, self._sides, self._of, strict=True):
                for name, rows in side.items():
                    chosen = of[name] == fold
                    scores[name][chosen] = rows[chosen].float() @ other
        return Crossed(self.read_out(solve), *found)

    def read_out(self, solve: Solve, without: int | None = None) -> Tensor:
        """One read-out, on everything or without one fold."""
        if without not in self._moments:
            benign, malicious = (
                Moments.sum([m for n, m in enumerate(folds) if n != without and m is not None]) for folds in self._folds
            )
            self._moments[without] = benign, malicious
        benign, malicious = self._moments[without]
        w = solve(benign, malicious)
        return (w / (w @ malicious.mean)).float()


def _drawn_folds(rows: Tensor) -> Tensor:
    """The fold of each row: in turn along those sorted by a coordinate, so the prompts' order is no matter."""
    return rows[:, 0].argsort().argsort() % FOLDS


def _part(rows: Tensor, chosen: Tensor, weigh: bool) -> Moments:
    moments = Moments.of(rows[chosen])
    return moments.scaled(len(rows) ** -0.5) if weigh else moments
