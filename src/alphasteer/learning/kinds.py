"""Kinds of malicious prompts, found without labels: the activations of direct requests lie apart from jailbreaks'."""

from collections.abc import Mapping

import torch
from torch import Tensor

FEWEST = 40
"""A kind of fewer prompts than this gets no read-out of its own."""


def kinds(sources: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The kind, 0 .. count - 1, of every prompt of every source, each of shape (n,): k-means of unit activations.

    Args:
        sources: by source, activations of one layer, of shape (n, d).
        count: how many kinds; fewer where there are fewer prompts.
    """
    from sklearn.cluster import KMeans

    rows = torch.cat([rows.float() for rows in sources.values()])
    # Sorted, so that the prompts' order is no matter; always one seed, so that the same prompts are the same kinds.
    order = rows[:, 0].argsort()
    unit = torch.nn.functional.normalize(rows[order], dim=-1).numpy()
    found = torch.empty(len(rows), dtype=torch.long)
    found[order] = torch.from_numpy(KMeans(min(count, len(rows)), n_init=4, random_state=0).fit_predict(unit)).long()
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
