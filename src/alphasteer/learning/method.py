"""The whole method, from evidence to a Steering."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from alphasteer.learning.calibration import Calibration
from alphasteer.learning.evidence import Evidence
from alphasteer.learning.gate_choice import GateCandidate, combine_layers, fit_candidates, mean_read_out
from alphasteer.learning.joint_gate import ChosenGate, calibrated, join, unseen_budget
from alphasteer.learning.kinds import by_kind
from alphasteer.learning.paper import choose_paper_push
from alphasteer.learning.readings import Examined
from alphasteer.learning.record import fit_record
from alphasteer.learning.selection import Selection
from alphasteer.steering import Steering

Drawn = Sequence[Sequence[GateCandidate]]
"""By folding, the read-outs of single layers for one kind of malicious prompts."""


@dataclass(frozen=True)
class _View:
    """A part of the prompts' activations, from which gates are learned: so many columns stand before and after it."""

    examined: Examined
    before: int = 0
    after: int = 0


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
        placed = {"": evidence.examined}
        if settings.contexts and not paper:
            placed |= evidence.in_chats
            if not evidence.in_chats:
                self.report.say("No prompt can be put into another chat: the gate is learned from prompts as they are.")
        views = {name: view for how, examined in placed.items() for name, view in self._views(examined, how).items()}
        fitted = {name: self._single_gates(view.examined, name) for name, view in views.items()}
        decision = None if paper else self._decision(placed, views, fitted)
        selected = Selection(evidence, *decision).run() if decision else choose_paper_push(evidence, fitted[""][0][0])
        self.report.say(selected.reason)
        self.report.say(
            f"The selection ran {selected.tokens:,} forward tokens; judging every candidate by full replies would "
            f"have taken {selected.full:,}."
        )
        singles = {
            f"{number}{how}": list(chain(*drawn))
            for how, by_number in fitted.items()
            for number, drawn in enumerate(by_number, start=1)
        }
        record = fit_record(evidence, singles, decision, selected)
        return replace(selected.steering, fitted_on=evidence.fingerprint, record=record)

    def _views(self, examined: Examined, how: str) -> dict[str, _View]:
        """What gates are learned from, by name: the reply start, and the prompt's end."""
        width = self.evidence.decoder.hidden_size
        if self.evidence.prompt_end is None:
            return {how: _View(examined)}
        return {
            how: _View(examined.columns(0, width), after=width),
            f"{how}, prompt end": _View(examined.columns(width, 2 * width), before=width),
        }

    def _single_gates(self, examined: Examined, how: str) -> list[Drawn]:
        """The read-outs of single layers, by kind of malicious prompts."""
        numbers = [n for n in self.evidence.gate_readings.layers if self.settings.gate_layer in (None, n)]

        def progress(layers: Sequence[int]) -> Iterable[int]:
            return self.report.track(((n, 1) for n in layers), f"Fitting gates{how}", len(layers))

        return [fit_candidates(kind, numbers, self.settings, progress) for kind in by_kind(examined, self.settings)]

    def _decision(
        self,
        placed: Mapping[str, Examined],
        views: Mapping[str, _View],
        fitted: Mapping[str, Sequence[Drawn]],
    ) -> tuple[ChosenGate, Calibration]:
        """The one gate, which is the mean of those learned from each view, and its operating point."""
        budget, chosen = unseen_budget(self.settings.benign_budget, self.known), []
        if budget > self.settings.benign_budget:
            self.report.say(
                f"Only {self.known} benign prompts to fit on: of kinds left out, {budget:.1%} may open the gate "
                f"instead of {self.settings.benign_budget:.1%}; of those held out, as few as ever."
            )
        for name, view in views.items():
            best = [mean_read_out([combine_layers(singles)[0] for singles in drawn]) for drawn in fitted[name]]
            chosen.append([read_out.widened(view.before, view.after) for read_out in best])
        gate = join(chosen, budget)
        calibration = calibrated(gate, list(placed.values()), self.settings)
        self.report.say(
            f"The gate reads layers {', '.join(map(str, sorted(gate.w)))} of {self.depth} by {len(gate.read_outs)} "
            f"read-outs: AUC {gate.auc:.3f}, partial AUC {gate.partial_auc:.3f} on kinds of malicious prompts not seen "
            f"before. It opens on {calibration.observed:.1%} of {calibration.n} benign prompts held out."
        )
        return gate, calibration
