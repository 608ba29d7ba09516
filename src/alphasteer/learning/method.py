"""The whole method, from evidence to a Steering."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from alphasteer.errors import LearningError
from alphasteer.learning.evidence import Evidence
from alphasteer.learning.forms import between, gate_per_layer, one_gate
from alphasteer.learning.gate_choice import Examined, GateCandidate, combine_layers, fit_candidates
from alphasteer.learning.push_choice import Trial, choose_push, possible_pushes, third_above
from alphasteer.learning.readings import ByLayer
from alphasteer.learning.record import fit_record
from alphasteer.learning.refining import ROWS, refine
from alphasteer.prompts import Prompt
from alphasteer.replies import PrefilledPrompts, refuses
from alphasteer.steering import Steering
from alphasteer.steering.formula import gate_score

HIGHEST_GATE = 0.6
"""The gate reads no higher than this share of the layers, unless told to."""
FEWEST_LESSONS = 8
"""Directions are refined on no fewer requests."""


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
        examined = evidence.examined
        singles = self._single_gates(examined)
        gate = self._gate(singles, examined)
        self.report.say(
            f"The gate reads layers {', '.join(map(str, sorted(gate.w)))} of {self.depth}: "
            f"AUC {gate.auc:.3f}, partial AUC {gate.partial_auc:.3f} on held-out prompts."
        )
        directions = dict(evidence.directions)
        if settings.refines:
            self._refine(directions, gate)
        trials, before = self._push(gate, singles, directions)
        best = trials[0]
        self.report.say(
            f"Pushing layers {best.first} to {best.last} by {best.strength:g} along the direction of {best.rule}: "
            f"{best.refused:.0%} of {best.probes} held-out malicious requests refused, {before:.0%} without steering."
        )
        steering = self._build(best, gate, singles, directions)
        dtype = str(self.model.dtype).removeprefix("torch.")
        contrasts = evidence.observed.contrasts
        record = fit_record(settings, dtype, evidence.examples, contrasts, singles, gate, trials, before)
        return Steering(steering.pushes, steering.reply_start, steering.positions, evidence.fingerprint, record)

    def _single_gates(self, examined: Examined) -> list[GateCandidate]:
        last = self.depth - 1
        if self.settings.window is not None:
            first, end = self.settings.window
            if not first <= end <= last:
                raise LearningError(f"Layers {first}-{end} are not among the model's layers 0-{last}; choose others.")
        numbers = [n for n in self.evidence.readings.layers if n < last]

        def progress(layers: Sequence[int]) -> Iterable[int]:
            return self.report.track(((n, 1) for n in layers), "Fitting gates", len(layers))

        return fit_candidates(examined, numbers, self.settings, progress)

    def _gate(self, singles: Sequence[GateCandidate], examined: Examined) -> GateCandidate:
        """The gate that decides: of the layers asked for, or of those that leave enough of the model to be pushed."""
        settings = self.settings
        if settings.window is not None:
            highest = settings.window[0]
        else:
            share = HIGHEST_GATE if settings.gate_layer is None else 1.0
            highest = int(share * self.depth)
        usable = [c for c in singles if c.layer <= highest and settings.gate_layer in (None, c.layer)]
        if not usable:
            low, high = self.evidence.readings.layers[0], self.evidence.readings.layers[-1] - 1
            raise LearningError(f"The gate must read a layer between {low} and {high}, not above a pushed one.")
        return combine_layers(usable, examined, settings)[0]

    def _refine(self, directions: dict[str, ByLayer], gate: GateCandidate) -> None:
        """Put refined directions beside those of the first contrast, learned from the requests that open the gate."""
        settings, observed = self.settings, self.evidence.observed
        start = observed.contrasts[0].rule
        streams = self.evidence.readings.of([prompt for prompt, _ in observed.lessons], "malicious requests")
        opened = (gate_score(streams, gate.w) > gate.calibration.threshold).tolist()
        lessons = [lesson for lesson, is_open in zip(observed.lessons, opened, strict=True) if is_open]
        if len(lessons) < FEWEST_LESSONS:
            self.report.say(f"The gate opens on {len(lessons)} requests to learn from: directions stay as they are.")
            return
        first, last = self._refined_window(gate)
        trial = Trial(start, first, last, 1.0)
        prompts = self._prefilled([prompt for prompt, _ in lessons], ROWS)
        directions[f"{start}, refined"] = refine(
            self.model,
            prompts,
            [reply.tokens for _, reply in lessons],
            between(directions[start], first, last),
            lambda vectors: self._build(trial, gate, (), {start: vectors}),
            self.report,
            steps=settings.steps,
            seed=settings.seed,
        )

    def _refined_window(self, gate: GateCandidate) -> tuple[int, int]:
        return self.settings.window or third_above(gate.layer, self.depth)

    def _prefilled(self, prompts: Sequence[Prompt], rows: int | None = None) -> PrefilledPrompts:
        template = self.evidence.template
        return PrefilledPrompts(
            self.model,
            self.evidence.tokenizer,
            template.render_all(prompts),
            template.reply_start,
            self.report,
            reuse=self.settings.preset == "default",
            rows=rows,
        )

    def _push(
        self, gate: GateCandidate, singles: Sequence[GateCandidate], directions: Mapping[str, ByLayer]
    ) -> tuple[list[Trial], float]:
        """Pushes tried on held-out malicious requests, best first, and the share refused without any."""
        settings = self.settings

        def probes(share: int) -> PrefilledPrompts:
            return self._prefilled(self.evidence.held_out(self.evidence.examples.malicious, share))

        rounds = [probes(settings.probes)]
        if settings.refines:
            strength = 1.0 if settings.strength is None else settings.strength
            trials = [Trial(rule, *self._refined_window(gate), strength) for rule in directions]
        else:
            trials = possible_pushes(gate.layer, self.depth, list(directions), settings)
            rounds.insert(0, probes(max(1, settings.probes // 3)))
        before = rounds[-1].replies(settings.reply_tokens)
        tried = choose_push(
            self.model,
            rounds,
            trials,
            lambda trial: self._build(trial, gate, singles, directions),
            settings,
            self.report,
        )
        return tried, sum(refuses(reply.text) for reply in before) / len(before)

    def _build(
        self,
        trial: Trial,
        gate: GateCandidate,
        singles: Sequence[GateCandidate],
        directions: Mapping[str, Mapping[int, Tensor]],
    ) -> Steering:
        """The preset's form, pushing this trial's window."""
        vectors = between(directions[trial.rule], trial.first, trial.last)
        if self.settings.preset == "default":
            return one_gate(gate, vectors, trial.strength, self.evidence.template.reply_start)
        return gate_per_layer(singles, vectors, trial.strength, self.evidence.template.reply_start)
