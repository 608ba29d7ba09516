"""Refusal vector: the difference of means added to every prompt (Arditi et al. 2024, arXiv 2406.11717).

Theirs adds one layer's vector at that layer; here every layer of the window gets its own, as all baselines do.
"""

from alphasteer.baselines.constant import ungated
from alphasteer.baselines.directions import means_apart
from alphasteer.baselines.strength import Build
from alphasteer.learning.evidence import Evidence
from alphasteer.learning.forms import between


def prepare(evidence: Evidence) -> Build:
    """``h' = h + strength * r`` on every prompt, r the mean of refused minus the mean of complied requests."""
    r = means_apart(evidence)
    return lambda window, strength: ungated(evidence, between(r, *window), strength)
