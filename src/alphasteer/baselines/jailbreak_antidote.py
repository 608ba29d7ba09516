"""Jailbreak Antidote: a sparse safety direction added to every prompt (Shen et al. 2024, arXiv 2410.02298)."""

import torch
from torch import Tensor

from alphasteer.baselines.constant import ungated
from alphasteer.baselines.directions import main_components
from alphasteer.baselines.strength import Build
from alphasteer.learning.evidence import Evidence
from alphasteer.learning.forms import between

KEPT = 0.05
"""Share of the dimensions that is changed; the paper's choice."""


def prepare(evidence: Evidence) -> Build:
    """``h' = h + strength * (m * r)``: r the first principal component of refused and complied, m its largest 5 %."""
    r = {n: sparse(vector) for n, vector in main_components(evidence).items()}
    return lambda window, strength: ungated(evidence, between(r, *window), strength)


def sparse(r: Tensor) -> Tensor:
    """The direction with all but its largest entries set to zero, of shape (d,)."""
    kept = torch.topk(r.abs(), max(1, round(KEPT * len(r)))).indices
    return torch.zeros_like(r).index_copy(0, kept, r[kept])
