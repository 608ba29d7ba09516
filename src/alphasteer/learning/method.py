"""The whole method, from examples to a Steering."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from alphasteer.errors import LearningError
from alphasteer.learning.contrast import Contrast, Observed, observe_refusals
from alphasteer.learning.directions import refusal_direction
from alphasteer.learning.examples import Examples, Source
from alphasteer.learning.gate_choice import (
    Activations,
    Examined,
    GateCandidate,
    best_by_layer,
    combine_layers,
    fit_candidates,
)
from alphasteer.learning.push_choice import Trial, choose_push, mean_direction, possible_pushes, third_above
from alphasteer.learning.readings import ByLayer, Readings
from alphasteer.learning.record import fit_record
from alphasteer.learning.refining import ROWS, refine
from alphasteer.learning.settings import FitSettings
from alphasteer.models import Fingerprint, check_decoder, find_decoder, fingerprint
from alphasteer.prompts import ChatTemplate, Prompt, union
from alphasteer.replies import PrefilledPrompts, Reply, generate_replies, refuses
from alphasteer.reporting import Reporter
from alphasteer.resuming import Shelf
from alphasteer.steering import Gate, Push, Steering
from alphasteer.steering.formula import gate_score

HIGHEST_GATE = 0.6
"""The gate reads no higher than this share of the layers, unless told to."""
FEWEST_LESSONS = 8
"""Directions are refined on no fewer requests."""


class Fit:
    """One fit: what its steps share."""

    def __init__(self, model: Any, tokenizer: Any, settings: FitSettings, report: Reporter, shelf: Shelf) -> None:
        self.model, self.tokenizer, self.settings, self.report, self.shelf = model, tokenizer, settings, report, shelf
        self.decoder = find_decoder(model)
        check_decoder(model, self.decoder)
        self.template = ChatTemplate(tokenizer)
        self.fingerprint: Fingerprint = fingerprint(model, tokenizer)
        # The lowest quarter never separates, and what is read there is never pushed.
        layers = range(len(self.decoder) // 4, len(self.decoder))
        self.readings = Readings(model, self.decoder, self.template, layers, shelf, report)

    def run(self, examples: Examples) -> Steering:
        """Read, learn, choose."""
        sources = (*examples.benign, *examples.malicious)
        count, width = sum(len(source.fit) for source in examples.benign), self.decoder.hidden_size
        if count < width:
            self.report.say(
                f"{count} benign prompts to fit on are fewer than the model's width of {width}: "
                "the ridge makes up for it, and more prompts would make a better gate."
            )
        activations = {}
        for number, source in enumerate(sources, start=1):
            name = f"{number} of {len(sources)}, {Path(source.name).name}"
            fitted = self.readings.of(source.fit.prompts, name)
            activations[source.name] = Activations(
                fitted, self.readings.of(source.held_out.prompts, f"{name}, held out")
            )
        examined = Examined(
            {source.name: activations[source.name] for source in examples.benign},
            {source.name: activations[source.name] for source in examples.malicious},
        )
        singles = self._single_gates(examined)
        gate = self._gate(singles, examined)
        self.report.say(
            f"The gate reads layers {', '.join(map(str, sorted(gate.w)))} of {len(self.decoder)}: "
            f"AUC {gate.auc:.3f}, partial AUC {gate.partial_auc:.3f} on held-out prompts."
        )
        observed = self._observe(examples)
        directions = self._directions(observed.contrasts)
        if self.settings.refines:
            self._refine(directions, observed, gate)
        trials, before = self._push(examples, gate, singles, directions)
        best = trials[0]
        self.report.say(
            f"Pushing layers {best.first} to {best.last} by {best.strength:g} along the direction of {best.rule}: "
            f"{best.refused:.0%} of {best.probes} held-out malicious requests refused, {before:.0%} without steering."
        )
        steering = self._build(best, gate, singles, directions)
        dtype = str(self.model.dtype).removeprefix("torch.")
        record = fit_record(self.settings, dtype, examples, observed.contrasts, singles, gate, trials, before)
        return Steering(steering.pushes, steering.reply_start, steering.positions, self.fingerprint, record)

    def _single_gates(self, examined: Examined) -> list[GateCandidate]:
        last = len(self.decoder) - 1
        if self.settings.window is not None:
            first, end = self.settings.window
            if not first <= end <= last:
                raise LearningError(f"Layers {first}-{end} are not among the model's layers 0-{last}; choose others.")
        numbers = [n for n in self.readings.layers if n < last]

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
            highest = int(share * len(self.decoder))
        usable = [c for c in singles if c.layer <= highest and settings.gate_layer in (None, c.layer)]
        if not usable:
            low, high = self.readings.layers[0], self.readings.layers[-1] - 1
            raise LearningError(f"The gate must read a layer between {low} and {high}, not above a pushed one.")
        return combine_layers(usable, examined, settings)[0]

    def _observe(self, examples: Examples) -> Observed:
        settings = self.settings

        def sample(sources: Sequence[Source]) -> Sequence[Prompt]:
            fitted = [source.fit for source in sources if len(source.fit)]
            share = -(-settings.replies // len(fitted))
            return union([prompts.limit(share, settings.seed) for prompts in fitted], "sample").prompts

        malicious, benign = sample(examples.malicious), sample(examples.benign)
        return observe_refusals(malicious, benign, self._reply, self.report, settings.seed)

    def _reply(self, prompts: Sequence[Prompt], name: str) -> list[Reply]:
        sequences = self.template.render_all(prompts)
        tokens = self.settings.reply_tokens
        identity = [self.fingerprint.weights, str(self.model.dtype), tokens, sequences]
        return generate_replies(
            self.model,
            self.tokenizer,
            sequences,
            self.report,
            max_new_tokens=tokens,
            journal=self.shelf.journal("short-replies", identity),
            description=f"Short replies to {name}",
        )

    def _directions(self, contrasts: Sequence[Contrast]) -> dict[str, ByLayer]:
        """By rule: each contrast's, and their mean."""
        found: dict[str, ByLayer] = {}
        for contrast in contrasts:
            refused = self.readings.of(contrast.refused, "refused requests")
            complied = self.readings.of(contrast.complied, "complied requests")
            found[contrast.rule] = {n: refusal_direction(refused[n], complied[n]) for n in self.readings.layers}
        if len(found) > 1:
            found["mean of both"] = mean_direction(list(found.values()))
        return found

    def _refine(self, directions: dict[str, ByLayer], observed: Observed, gate: GateCandidate) -> None:
        """Put refined directions beside those of the first contrast, learned from the requests that open the gate."""
        settings, start = self.settings, observed.contrasts[0].rule
        streams = self.readings.of([prompt for prompt, _ in observed.lessons], "malicious requests")
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
            {n: directions[start][n] for n in range(first, last + 1)},
            lambda vectors: self._build(trial, gate, (), {start: vectors}),
            self.report,
            steps=settings.steps,
            seed=settings.seed,
        )

    def _refined_window(self, gate: GateCandidate) -> tuple[int, int]:
        return self.settings.window or third_above(gate.layer, len(self.decoder))

    def _prefilled(self, prompts: Sequence[Prompt], rows: int | None = None) -> PrefilledPrompts:
        return PrefilledPrompts(
            self.model,
            self.tokenizer,
            self.template.render_all(prompts),
            self.template.reply_start,
            self.report,
            reuse=self.settings.preset == "default",
            rows=rows,
        )

    def _push(
        self,
        examples: Examples,
        gate: GateCandidate,
        singles: Sequence[GateCandidate],
        directions: Mapping[str, ByLayer],
    ) -> tuple[list[Trial], float]:
        """Pushes tried on held-out malicious requests, best first, and the share refused without any."""
        settings = self.settings
        held_out = [source.held_out for source in examples.malicious if len(source.held_out)]

        def probes(count: int) -> PrefilledPrompts:
            return self._prefilled(union([s.limit(count, settings.seed) for s in held_out], "probes").prompts)

        rounds = [probes(settings.probes)]
        if settings.refines:
            strength = 1.0 if settings.strength is None else settings.strength
            trials = [Trial(rule, *self._refined_window(gate), strength) for rule in directions]
        else:
            trials = possible_pushes(gate.layer, len(self.decoder), list(directions), settings)
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
        """The default's one gate and many layers, or the paper's gate a layer, at this trial's window."""
        window = range(trial.first, trial.last + 1)
        vectors = {n: directions[trial.rule][n].float() for n in window}
        if self.settings.preset == "default":
            decides = Gate(gate.w, gate.calibration.threshold, gate.calibration.ceiling)
            return Steering((Push(decides, vectors, trial.strength),), self.template.reply_start)
        by_layer = {c.layer: c for c in best_by_layer(singles)}
        pushes = [Push(Gate(by_layer[n].w), {n: vectors[n]}, trial.strength) for n in window if n in by_layer]
        return Steering(tuple(pushes), self.template.reply_start, "prompt")
