"""The whole method, from evidence to a Steering."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain

from alphasteer.learning.calibration import Calibration, check_enough, fewest_of_source
from alphasteer.learning.evidence import Evidence
from alphasteer.learning.gate_choice import fit_candidates
from alphasteer.learning.joint_gate import ChosenGate, calibrated, join, unseen_budget
from alphasteer.learning.kinds import by_kind
from alphasteer.learning.paper import choose_paper_push
from alphasteer.learning.record import fit_record
from alphasteer.learning.selection import Selection
from alphasteer.learning.views import LearnedKind, View, views_of
from alphasteer.steering import Steering


class Fit:
    """One fit: what its steps share."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.settings, self.report = evidence, evidence.settings, evidence.report
        self.depth = len(evidence.decoder)
        self.known = sum(len(source.fit) for source in evidence.examples.benign)

    def run(self) -> Steering:
        """Read, learn, choose."""
        evidence, settings = self.evidence, self.settings
        width = evidence.decoder.hidden_size
        if self.known < width:
            self.report.say(
                f"{self.known} benign prompts to fit on are fewer than the model's width of {width}: "
                "the ridge makes up for it, and more prompts would make a better gate."
            )
        paper = settings.preset == "paper"
        if not paper:  # now, not after an hour's reading
            held_out = sum(len(source.held_out) for source in evidence.examples.benign)
            check_enough(held_out, settings.benign_budget, "benign, held out")
        views = views_of(evidence.placings, width, prompt_end=evidence.prompt_end is not None)
        learned = [self._learned(view) for view in views]
        decision = None if paper else self._decision(learned)
        if decision:
            selected = Selection(evidence, *decision).run()
        else:
            selected = choose_paper_push(evidence, learned[0][0].drawn[0])
        self.report.say(selected.reason)
        self.report.say(
            f"This run of the selection took {selected.tokens:,} forward tokens; judging every candidate by full "
            f"replies would have taken {selected.full:,}."
        )
        record = fit_record(evidence, list(chain(*learned)), decision, selected)
        return replace(selected.steering, fitted_on=evidence.fingerprint, record=record)

    def _learned(self, view: View) -> list[LearnedKind]:
        """What one view teaches of each kind of malicious prompts in it."""
        numbers = [n for n in self.evidence.gate_readings.layers if self.settings.gate_layer in (None, n)]
        what = f"Fitting gates, prompts {view.prompts}, {view.place}"

        def progress(layers: Sequence[int]) -> Iterable[int]:
            return self.report.track(((n, 1) for n in layers), what, len(layers))

        return [
            LearnedKind(view, number, fit_candidates(kind, numbers, self.settings, progress))
            for number, kind in enumerate(by_kind(view.examined, self.settings), start=1)
        ]

    def _decision(self, learned: Sequence[Sequence[LearnedKind]]) -> tuple[ChosenGate, Calibration]:
        """The one gate, which is the mean of those learned from each view, and its operating point."""
        budget = unseen_budget(self.settings.benign_budget, self.known)
        if budget > self.settings.benign_budget:
            self.report.say(
                f"Only {self.known} benign prompts to fit on: of kinds left out, {budget:.1%} may open the gate "
                f"instead of {self.settings.benign_budget:.1%}; of those held out, as few as ever."
            )
        gate = join([[kind.read_out for kind in kinds] for kinds in learned], budget)
        calibration = calibrated(gate, list(self.evidence.placings.values()), self.settings)
        self.report.say(
            f"The gate reads layers {', '.join(map(str, sorted(gate.w)))} of {self.depth} by {len(gate.read_outs)} "
            f"read-outs: AUC {gate.auc:.3f}, partial AUC {gate.partial_auc:.3f} on kinds of malicious prompts not seen "
            f"before. It opens on {calibration.observed:.1%} of {calibration.n} benign prompts held out."
        )
        held_out = {source.name: len(source.held_out) for source in self.evidence.examples.benign}
        small = [f"{name} ({n})" for name, n in held_out.items() if n and name not in calibration.kept_for]
        if small:
            self.report.say(
                f"Too few are held out to keep {self.settings.source_budget:.1%} for each of these by itself: "
                f"{', '.join(small)}; {fewest_of_source(self.settings.source_budget)} would do."
            )
        return gate, calibration
