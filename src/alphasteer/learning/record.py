"""What an artefact remembers of how it came about, as plain JSON values."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from itertools import chain
from typing import Any

from alphasteer.learning.calibration import METHOD, Calibration
from alphasteer.learning.evidence import Evidence
from alphasteer.learning.gate_choice import GateCandidate, best_by_layer
from alphasteer.learning.joint_gate import ChosenGate
from alphasteer.learning.push_choice import Trial
from alphasteer.learning.selected import Selected
from alphasteer.learning.settings import FitSettings
from alphasteer.learning.views import LearnedKind
from alphasteer.prompts import union

PACKAGES = ("alphasteer", "torch", "transformers")


def fit_record(
    evidence: Evidence,
    learned: Sequence[LearnedKind],
    decision: tuple[ChosenGate, Calibration] | None,
    selected: Selected,
) -> dict[str, Any]:
    """The record of a fit.

    Args:
        learned: what each view taught of each kind of malicious prompts.
        decision: the gate that decides and its operating point; None of the paper's form, which promises nothing.
        selected: the push, and how it was found.
    """
    settings, examples, best = evidence.settings, evidence.examples, selected.finalists[0]
    contrasts = evidence.observed.contrasts
    return {
        "settings": settings.model_dump(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "dtype": str(evidence.model.dtype).removeprefix("torch."),
        "prompts": {
            side: {
                source.name: {
                    "spec": source.held_out.name,
                    "fit": len(source.fit),
                    "held_out": len(source.held_out),
                    "digest": union([source.fit, source.held_out], source.name).digest,
                }
                for source in sources
            }
            for side, sources in (("benign", examples.benign), ("malicious", examples.malicious))
        },
        "contrast": {"rule": best.rule, "found": {c.rule: [len(c.refused), len(c.complied)] for c in contrasts}},
        "gates": [_kind_record(kind, taken=decision is not None) for kind in learned],
        **({} if decision is None else _decision_record(*decision, settings)),
        "selection": {
            "reason": selected.reason,
            "altered": selected.altered,
            "tokens": selected.tokens,
            "full_replies": selected.full,
            "searched": [_searched(push) for push in selected.searched if push.surprise is not None],
        },
        "trials": [_judged(push) for push in selected.finalists],
        "validation": {
            "probes": best.probes,
            "refused": {"vanilla": selected.before, "steered": best.refused},
        },
    }


def _decision_record(gate: ChosenGate, calibration: Calibration, settings: FitSettings) -> dict[str, Any]:
    return {
        "gate": {
            "layers": sorted(gate.w),
            "auc": gate.auc,
            "partial_auc": gate.partial_auc,
            "held_out_auc": calibration.auc,
        },
        "calibration": {
            "method": METHOD,
            "budget": settings.benign_budget,
            "source_budget": settings.source_budget,
            "kept_for": list(calibration.kept_for),
            "n": calibration.n,
            "observed": calibration.observed,
            "threshold": calibration.threshold,
            "ceiling": calibration.ceiling,
            "opened": dict(calibration.opened),
        },
    }


def _kind_record(kind: LearnedKind, *, taken: bool) -> dict[str, Any]:
    """Where no read-out is taken, as in the paper's form, every pushed layer keeps its own."""
    singles = sorted(best_by_layer(list(chain(*kind.drawn))), key=lambda single: single.layer)
    return {
        "prompts": kind.view.prompts,
        "place": kind.view.place,
        "kind": kind.number,
        "malicious": {name: len(scores) for name, scores in singles[0].malicious.items() if len(scores)},
        "single_layers": [_single_record(single) for single in singles],
        "read_out": {"layers": sorted(kind.read_out.w), **_areas(kind.read_out)} if taken else None,
    }


def _single_record(single: GateCandidate) -> dict[str, Any]:
    ((layer, mu, alpha),) = single.fits
    return {"layer": layer, "mu": mu, "alpha": alpha, **_areas(single)}


def _areas(candidate: GateCandidate) -> dict[str, float]:
    return {"auc": candidate.auc, "partial_auc": candidate.partial_auc}


def _push(push: Trial) -> dict[str, Any]:
    return {"rule": push.rule, "first": push.first, "last": push.last, "strength": push.strength}


def _searched(push: Trial) -> dict[str, Any]:
    return {**_push(push), "surprise": push.surprise, "divergence": push.divergence}


def _judged(push: Trial) -> dict[str, Any]:
    judged = {"refused": push.refused, "coherent": push.coherent, "probes": push.probes}
    return {**_push(push), **judged, "divergence": push.divergence}
