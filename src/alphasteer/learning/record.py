"""What an artefact remembers of how it came about, as plain JSON values."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import chain, repeat
from typing import Any

from alphasteer.learning.calibration import METHOD, Calibration
from alphasteer.learning.evidence import Evidence
from alphasteer.learning.gate_choice import GateCandidate, best_by_layer
from alphasteer.learning.joint_gate import ChosenGate
from alphasteer.learning.push_choice import Trial
from alphasteer.learning.selection import Selected
from alphasteer.learning.settings import FitSettings
from alphasteer.prompts import union

PACKAGES = ("alphasteer", "torch", "transformers")


def fit_record(
    evidence: Evidence,
    singles: Mapping[str, Sequence[GateCandidate]],
    decision: tuple[ChosenGate, Calibration] | None,
    selected: Selected,
) -> dict[str, Any]:
    """The record of a fit.

    Args:
        singles: the read-outs of single layers that were compared, by kind of malicious prompts.
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
        "gates": [
            _gate_record(kind, c)
            for kind, of_kind in singles.items()
            for c in sorted(best_by_layer(of_kind), key=lambda c: c.layer)
        ],
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


def recorded_gates(record: Mapping[str, Any]) -> dict[str, tuple[list[dict[str, Any]], dict[str, Any] | None]]:
    """By kind of malicious prompts, the gates of its single layers and the read-out that is taken of them.

    None is taken in the paper's form, which keeps every pushed layer's.

    Args:
        record: of a fit.
    """
    chosen = record.get("gate", {})
    read_outs = chosen.get("read_outs", [chosen] if chosen else [])
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for gate in record.get("gates", []):
        by_kind.setdefault(gate["kind"], []).append(gate)
    taken = chain(read_outs, repeat(None))
    return {kind: (gates, read_out) for (kind, gates), read_out in zip(by_kind.items(), taken, strict=False)}


def _decision_record(gate: ChosenGate, calibration: Calibration, settings: FitSettings) -> dict[str, Any]:
    return {
        "gate": {
            "layers": sorted(gate.w),
            "auc": gate.auc,
            "partial_auc": gate.partial_auc,
            "held_out_auc": calibration.auc,
            "read_outs": [_read_out_record(read_out) for read_out in gate.read_outs],
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


def _read_out_record(candidate: GateCandidate) -> dict[str, Any]:
    prompts = sum(map(len, candidate.malicious.values()))
    return {"layers": sorted(candidate.w), "malicious": prompts, **_areas(candidate)}


def _gate_record(kind: str, candidate: GateCandidate) -> dict[str, Any]:
    ((layer, mu, alpha),) = candidate.fits
    return {"kind": kind, "layer": layer, "mu": mu, "alpha": alpha, **_areas(candidate)}


def _areas(candidate: GateCandidate) -> dict[str, float]:
    return {"auc": candidate.auc, "partial_auc": candidate.partial_auc}


def _push(push: Trial) -> dict[str, Any]:
    return {"rule": push.rule, "first": push.first, "last": push.last, "strength": push.strength}


def _searched(push: Trial) -> dict[str, Any]:
    return {**_push(push), "surprise": push.surprise, "divergence": push.divergence}


def _judged(push: Trial) -> dict[str, Any]:
    judged = {"refused": push.refused, "coherent": push.coherent, "probes": push.probes}
    return {**_push(push), **judged, "divergence": push.divergence}
