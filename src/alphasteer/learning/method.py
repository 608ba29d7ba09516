"""The whole method, from evidence to a Steering."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from alphasteer.learning.calibration import Calibration
from alphasteer.learning.evidence import Evidence
from alphasteer.learning.gate_choice import (
    ChosenGate,
    GateCandidate,
    calibrated,
    combine_layers,
    fit_candidates,
    join,
    mean_read_out,
)
from alphasteer.learning.kinds import Kind, by_kind
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
        kinds = by_kind(evidence.examined, settings)
        drawn = [[self._single_gates(kind, n, draw) for draw in range(len(kind.folds))] for n, kind in enumerate(kinds)]
        decision = None if settings.preset == "paper" else self._decision(drawn)
        selected = Selection(evidence, *decision).run() if decision else choose_paper_push(evidence, drawn[0][0])
        self.report.say(selected.reason)
        self.report.say(
            f"The selection ran {selected.tokens:,} forward tokens; judging every candidate by full replies would "
            f"have taken {selected.full:,}."
        )
        singles = [[single for singles in of_kind for single in singles] for of_kind in drawn]
        record = fit_record(evidence, singles, decision, selected)
        return replace(selected.steering, fitted_on=evidence.fingerprint, record=record)

    def _single_gates(self, kind: Kind, number: int, draw: int) -> list[GateCandidate]:
        name = f"Fitting gates, kind {number + 1}, folding {draw + 1} of {len(kind.folds)}"
        numbers = [n for n in self.evidence.gate_readings.layers if self.settings.gate_layer in (None, n)]

        def progress(layers: Sequence[int]) -> Iterable[int]:
            return self.report.track(((n, 1) for n in layers), name, len(layers))

        return fit_candidates(kind, numbers, self.settings, progress, draw=draw)

    def _decision(self, drawn: Sequence[Sequence[Sequence[GateCandidate]]]) -> tuple[ChosenGate, Calibration]:
        """The one gate of every kind's read-out, the mean of the draws' best ones, and its operating point."""
        best = [mean_read_out([combine_layers(singles)[0] for singles in of_kind]) for of_kind in drawn]
        examined = self.evidence.examined
        gate = join(best, self.settings.source_budget, examined.malicious)
        calibration = calibrated(gate, examined, self.settings)
        self.report.say(
            f"The gate reads layers {' and '.join(', '.join(map(str, sorted(r.w))) for r in gate.read_outs)} of "
            f"{self.depth}: AUC {gate.auc:.3f}, partial AUC {gate.partial_auc:.3f} on kinds of malicious prompts that "
            f"it had not seen. It opens on {calibration.observed:.1%} of {calibration.n} benign prompts held out."
        )
        return gate, calibration
