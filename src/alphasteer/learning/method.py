"""The whole method, from evidence to a Steering."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from alphasteer.errors import LearningError
from alphasteer.learning.evidence import Evidence
from alphasteer.learning.forms import between, gate_per_layer
from alphasteer.learning.gate_choice import (
    GateCandidate,
    Kind,
    by_kind,
    calibrated,
    combine_layers,
    fit_candidates,
    join,
)
from alphasteer.learning.push_choice import Trial, choose_push, possible_pushes
from alphasteer.learning.record import fit_record
from alphasteer.learning.selection import FULL_REPLY, Selected, Selection
from alphasteer.models import counted_tokens
from alphasteer.replies import PrefilledPrompts, refuses
from alphasteer.steering import Steering


class Fit:
    """One fit: what its steps share."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.settings, self.report = evidence, evidence.settings, evidence.report
        self.model, self.depth = evidence.model, len(evidence.decoder)

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
        gate = join([self._best(of_kind) for of_kind in singles], settings.benign_budget)
        calibration = calibrated(gate, evidence.examined, settings)
        self.report.say(
            f"The gate reads layers {' and '.join(', '.join(map(str, sorted(r.w))) for r in gate.read_outs)} of "
            f"{self.depth}: AUC {gate.auc:.3f}, partial AUC {gate.partial_auc:.3f} on kinds of prompts it had not "
            f"seen. It opens on {calibration.observed:.1%} of {calibration.n} benign prompts held out."
        )
        selected = (
            self._drawn(singles[0]) if settings.preset == "paper" else Selection(evidence, gate, calibration).run()
        )
        self.report.say(selected.reason)
        self.report.say(
            f"The selection ran {selected.tokens:,} forward tokens; judging every candidate by full replies would "
            f"have taken {selected.full:,}."
        )
        record = fit_record(evidence, singles, gate, calibration, selected)
        return replace(selected.steering, fitted_on=evidence.fingerprint, record=record)

    def _single_gates(self, kind: Kind) -> list[GateCandidate]:
        last = self.depth - 1
        if self.settings.window is not None:
            first, end = self.settings.window
            if not first <= end <= last:
                raise LearningError(f"Layers {first}-{end} are not among the model's layers 0-{last}; choose others.")
        numbers = [n for n in self.evidence.gate_readings.layers if n < last]

        def progress(layers: Sequence[int]) -> Iterable[int]:
            return self.report.track(((n, 1) for n in layers), "Fitting gates", len(layers))

        return fit_candidates(kind, numbers, self.settings, progress)

    def _best(self, singles: Sequence[GateCandidate]) -> GateCandidate:
        """A kind's read-out: of the layer asked for, or of all that leave enough of the model to be pushed."""
        window, asked = self.settings.window, self.settings.gate_layer
        highest = self.depth if window is None else window[0]
        usable = [c for c in singles if c.layer <= highest and asked in (None, c.layer)]
        if not usable:
            low, high = self.evidence.readings.layers[0], self.evidence.readings.layers[-1] - 1
            raise LearningError(f"The gate must read a layer between {low} and {high}, not above a pushed one.")
        return combine_layers(usable)[0]

    def _drawn(self, singles: Sequence[GateCandidate]) -> Selected:
        """The paper's form: pushes drawn by the seed, a third of the probes first, the best of them on all."""
        evidence, settings = self.evidence, self.settings
        template, directions = evidence.template, evidence.directions

        def build(trial: Trial) -> Steering:
            vectors = between(directions[trial.rule], trial.first, trial.last)
            return gate_per_layer(singles, vectors, trial.strength, template.reply_start)

        def probes(share: int) -> PrefilledPrompts:
            rendered = template.render_all(evidence.held_out(evidence.examples.malicious, share))
            lengths.append(sum(map(len, rendered)) + FULL_REPLY * len(rendered))
            return PrefilledPrompts(
                self.model, evidence.tokenizer, rendered, template.reply_start, self.report, reuse=False
            )

        lengths: list[int] = []
        lowest = min(candidate.layer for candidate in singles)
        trials = possible_pushes(lowest, self.depth, list(directions), settings)
        with counted_tokens(self.model) as tokens:
            rounds = [probes(max(1, settings.probes // 3)), probes(settings.probes)]
            before = [refuses(reply.text) for reply in rounds[-1].replies(settings.reply_tokens)]
            judged = choose_push(self.model, rounds, trials, build, settings, self.report)
        full = len(trials) * lengths[-1]
        return Selected(build(judged[0]), judged, [], sum(before) / len(before), tokens.count, full)
