"""The whole method, from evidence to a Steering."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from alphasteer.learning.calibration import Calibration
from alphasteer.learning.evidence import Evidence
from alphasteer.learning.gate_choice import (
    ChosenGate,
    GateCandidate,
    Kind,
    by_kind,
    calibrated,
    combine_layers,
    fit_candidates,
    join,
)
from alphasteer.learning.paper import choose_paper_push
from alphasteer.learning.record import fit_record
from alphasteer.learning.selection import Selection
from alphasteer.steering import Steering


class Fit:
    """One fit: what its steps share."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.settings, self.report = evidence, evidence.settings, evidence.report
        self.depth = len(evidence.decoder)

    def run(self) -> Steering:
        """Read, learn, choose."""
        evidence, settings = self.evidence, self.settings
        width = evidence.decoder.hidden_size
        count = sum(len(source.fit) for source in evidence.examples.benign)
        if count < width:
            self.report.say(
                f"{count} benign prompts to fit on are fewer than the model's width of {width}: "
                "the ridge makes up for it, and more prompts would make a better gate."
            )
        singles = [self._single_gates(kind) for kind in by_kind(evidence.examined, settings)]
        decision = None if settings.preset == "paper" else self._decision(singles)
        selected = Selection(evidence, *decision).run() if decision else choose_paper_push(evidence, singles[0])
        self.report.say(selected.reason)
        self.report.say(
            f"The selection ran {selected.tokens:,} forward tokens; judging every candidate by full replies would "
            f"have taken {selected.full:,}."
        )
        record = fit_record(evidence, singles, decision, selected)
        return replace(selected.steering, fitted_on=evidence.fingerprint, record=record)

    def _single_gates(self, kind: Kind) -> list[GateCandidate]:
        numbers = [n for n in self.evidence.gate_readings.layers if self.settings.gate_layer in (None, n)]

        def progress(layers: Sequence[int]) -> Iterable[int]:
            return self.report.track(((n, 1) for n in layers), "Fitting gates", len(layers))

        return fit_candidates(kind, numbers, self.settings, progress)

    def _decision(self, singles: Sequence[Sequence[GateCandidate]]) -> tuple[ChosenGate, Calibration]:
        """The one gate of the best read-outs of every kind, and its operating point."""
        best = [combine_layers(of_kind)[0] for of_kind in singles]
        gate = join(best, self.settings.benign_budget)
        calibration = calibrated(gate, self.evidence.examined, self.settings)
        self.report.say(
            f"The gate reads layers {' and '.join(', '.join(map(str, sorted(r.w))) for r in gate.read_outs)} of "
            f"{self.depth}: AUC {gate.auc:.3f}, partial AUC {gate.partial_auc:.3f} on kinds of malicious prompts that "
            f"it had not seen. It opens on {calibration.observed:.1%} of {calibration.n} benign prompts held out."
        )
        return gate, calibration
