"""The method: refusal direction, null space, gate regression, calibration, the choice of layers, and ``fit``.

``fit(model, tokenizer, benign, harmful)`` gives a Steering; ``fit_gate(benign, malicious)`` gives one gate's w.
"""

from alphasteer.learning.calibration import Calibration, benign_threshold, calibrate, check_enough, fewest_prompts
from alphasteer.learning.directions import refusal_direction
from alphasteer.learning.evidence import Evidence
from alphasteer.learning.fit import fit
from alphasteer.learning.gates import fit_gate, gate_from_moments, null_space_basis
from alphasteer.learning.recalibration import largest_excess, recalibrated
from alphasteer.learning.recorded import recorded_evidence
from alphasteer.learning.roc import area_under_roc
from alphasteer.learning.settings import FitSettings, fit_settings, read_config

__all__ = [
    "Calibration",
    "Evidence",
    "FitSettings",
    "area_under_roc",
    "benign_threshold",
    "calibrate",
    "check_enough",
    "fewest_prompts",
    "fit",
    "fit_gate",
    "fit_settings",
    "gate_from_moments",
    "largest_excess",
    "null_space_basis",
    "read_config",
    "recalibrated",
    "recorded_evidence",
    "refusal_direction",
]
