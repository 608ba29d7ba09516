"""AlphaSteer as published: a linear gate a layer on a hard null space, at every prompt position (arXiv 2506.07022)."""

from alphasteer.baselines.directions import means_apart
from alphasteer.baselines.strength import Build, Window
from alphasteer.learning import fit_settings
from alphasteer.learning.evidence import Evidence
from alphasteer.learning.forms import between, gate_per_layer
from alphasteer.learning.gate_choice import fit_candidates
from alphasteer.learning.kinds import Kind
from alphasteer.steering import Steering


def prepare(evidence: Evidence) -> Build:
    """``h' = h + strength * r w^T h`` at every layer of the window (the paper's Eqs. 4-9)."""
    layers = evidence.readings.layers
    settings = fit_settings({"preset": "paper", "null_share": evidence.settings.null_share})
    (gates,) = fit_candidates(Kind(evidence.examined), layers, settings)
    r = means_apart(evidence)

    def build(window: Window, strength: float) -> Steering:
        return gate_per_layer(gates, between(r, *window), strength, evidence.template.reply_start)

    return build
