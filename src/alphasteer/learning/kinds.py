"""Kinds of malicious prompts, found without labels: the activations of direct requests lie apart from jailbreaks'."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from alphasteer.learning.crossing import FOLDS, Folds
from alphasteer.learning.readings import Activations, Examined, layer_of
from alphasteer.learning.settings import FitSettings

FEWEST = 40
"""A kind of fewer prompts than this gets no read-out of its own."""
DRAWS = 4
"""Layers and weights are chosen under so many foldings, and the mean of what they choose is taken: under one, chance
decides what the gate makes of unseen kinds (docs/method.md)."""
BENIGN_KINDS = 25
"""Benign prompts are so many kinds, of which each fold leaves out a fifth: what a gate does on kinds that it has not
seen decides where it may open."""


@dataclass(frozen=True)
class Kind:
    """What the read-out for one kind of malicious prompts is fitted on.

    Attributes:
        examined: all benign prompts, and the malicious ones of this kind.
        folds: in one or several ways, the cross-fitting folds of benign and malicious prompts, both of which leave
            kinds of prompts out whole; None to draw them.
    """

    examined: Examined
    folds: tuple[tuple[Folds, Folds] | None, ...] = (None,)


def kinds(sources: Mapping[str, Tensor], count: int, *, starts: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """The kind, 0 .. count - 1, of every prompt of every source, each of shape (n,): k-means of unit activations.

    Args:
        sources: by source, activations of one layer, of shape (n, d).
        count: how many kinds; fewer where there are fewer prompts.
        starts: the best of so many runs of k-means is taken; with one, every seed finds kinds of its own.
    """
    from sklearn.cluster import KMeans

    rows = torch.cat([rows.float() for rows in sources.values()])
    # Sorted, so that the prompts' order is no matter.
    order = rows[:, 0].argsort()
    unit = torch.nn.functional.normalize(rows[order], dim=-1).numpy()
    found = torch.empty(len(rows), dtype=torch.long)
    means = KMeans(min(count, len(rows)), n_init=starts, random_state=seed)
    found[order] = torch.from_numpy(means.fit_predict(unit)).long()
    sizes = [len(rows) for rows in sources.values()]
    return dict(zip(sources, torch.split(found, sizes), strict=True))


def two_kinds(sources: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Which prompts make up each kind, as masks by source: two kinds, or one where either would be too small.

    Args:
        sources: by source, activations of one layer, of shape (n, d).
    """
    labels = kinds(sources, 2)
    masks = [{name: found == kind for name, found in labels.items()} for kind in range(2)]
    if min(sum(int(mask.sum()) for mask in kind.values()) for kind in masks) < FEWEST:
        return [{name: torch.ones(len(rows), dtype=torch.bool) for name, rows in sources.items()}]
    return masks


def by_kind(examined: Examined, settings: FitSettings) -> list[Kind]:
    """The malicious prompts in two kinds, or one where they are few; the paper's form and null space know one."""
    if settings.null_space == "hard" or settings.preset == "paper":
        return [Kind(examined)]
    layers = sorted(next(iter(examined.malicious.values())).fit)
    layer = layers[len(layers) // 2]
    benign_folds = [_fold_by_kinds(layer_of(examined.benign, layer), draw) for draw in range(DRAWS)]
    found = []
    for masks in two_kinds(layer_of(examined.malicious, layer)):
        chosen = {
            name: Activations({n: rows[masks[name]] for n, rows in activations.fit.items()}, activations.held_out)
            for name, activations in examined.malicious.items()
        }
        rows = layer_of(chosen, layer)
        folds = tuple((low, kinds(rows, FOLDS, starts=1, seed=draw)) for draw, low in enumerate(benign_folds))
        found.append(Kind(Examined(examined.benign, chosen), folds))
    return found


def _fold_by_kinds(rows: Mapping[str, Tensor], draw: int) -> Folds:
    return {name: of % FOLDS for name, of in kinds(rows, BENIGN_KINDS, starts=1, seed=draw).items()}
