"""The whole method, from prompts to a Steering."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from alphasteer.errors import LearningError
from alphasteer.learning.contrast import Contrast, observe_refusals
from alphasteer.learning.directions import refusal_direction
from alphasteer.learning.examples import Examples, Source, gather
from alphasteer.learning.gate_choice import (
    Activations,
    Examined,
    GateCandidate,
    best_by_layer,
    combine_layers,
    fit_candidates,
)
from alphasteer.learning.push_choice import Trial, choose_push, mean_direction, possible_pushes
from alphasteer.learning.readings import ByLayer, Readings
from alphasteer.learning.settings import FitSettings
from alphasteer.models import Fingerprint, check_decoder, find_decoder, fingerprint
from alphasteer.prompts import ChatTemplate, Prompt, PromptSet, read_prompts, union
from alphasteer.replies import PrefilledPrompts, Reply, generate_replies, refuses
from alphasteer.reporting import LogReporter, Reporter
from alphasteer.resuming import Shelf
from alphasteer.steering import Gate, Push, Steering

HIGHEST_GATE = 0.6
"""The gate reads no higher than this share of the layers, unless told to."""

Prompts = PromptSet | str | Iterable[PromptSet | str]
"""A prompt set, a SPEC (see ``read_prompts``), or several of either."""


def fit(
    model: Any,
    tokenizer: Any,
    benign: Prompts = ("starter:benign", "starter:borderline"),
    harmful: Prompts = ("starter:harmful", "starter:jailbreak"),
    *,
    settings: FitSettings | None = None,
    benign_validation: Prompts = (),
    harmful_validation: Prompts = (),
    report: Reporter | None = None,
    work: Path | None = None,
) -> Steering:
    """Learn a steering for a chat model; its weights are not touched.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        benign: what must stay as it is. Give every kind that the model is used for: with instructions alone, a
            gate opens on maths. Borderline prompts (sound dangerous, are fine) belong here too.
        harmful: what must be refused: direct requests and jailbreaks.
        settings: how; the defaults fit any model.
        benign_validation, harmful_validation: more prompts to calibrate and choose on, beside those held out.
        report: follows the long steps.
        work: a folder in which the results of long steps are kept, so that an interrupted fit goes on.

    Returns:
        The steering, with the record of how it came about.

    Raises:
        LearningError: if the prompts are too few or of one class, or activations are not finite.
        ModelError: if the model cannot be steered.
        PromptError: if a source cannot be read, or a prompt is longer than the model's context.
    """
    return Fit(model, tokenizer, settings or FitSettings(), report or LogReporter(), Shelf(work)).run(
        gather(
            _sets(benign),
            _sets(harmful),
            settings or FitSettings(),
            report or LogReporter(),
            benign_validation=_sets(benign_validation),
            malicious_validation=_sets(harmful_validation),
        )
    )


def _sets(prompts: Prompts) -> list[PromptSet]:
    items = [prompts] if isinstance(prompts, PromptSet | str) else list(prompts)
    return [read_prompts(item) if isinstance(item, str) else item for item in items]


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
        contrasts = self._observe(examples)
        directions = self._directions(contrasts)
        trials, before = self._push(examples, gate, singles, directions)
        best = trials[0]
        self.report.say(
            f"Pushing layers {best.first} to {best.last} by {best.strength:g} along the direction of {best.rule}: "
            f"{best.refused:.0%} of {best.probes} held-out malicious requests refused, {before:.0%} without steering."
        )
        steering = self._build(best, gate, singles, directions)
        record = {
            **self._provenance(examples),
            "contrast": {
                "rule": best.rule,
                "found": {c.rule: [len(c.refused), len(c.complied)] for c in contrasts},
            },
            "gate": {"layers": sorted(gate.w), "auc": gate.auc, "partial_auc": gate.partial_auc},
            "gates": [_gate_record(c) for c in sorted(best_by_layer(singles), key=lambda c: c.layer)],
            "calibration": {
                "budget": self.settings.benign_budget,
                "threshold": gate.calibration.threshold,
                "ceiling": gate.calibration.ceiling,
                "opened": dict(gate.calibration.opened),
            },
            "trials": [vars(trial) for trial in trials],
            "validation": {"probes": best.probes, "refused": {"vanilla": before, "steered": best.refused}},
        }
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

    def _observe(self, examples: Examples) -> tuple[Contrast, ...]:
        settings = self.settings

        def sample(sources: Sequence[Source]) -> Sequence[Prompt]:
            limited = [source.fit.limit(settings.replies, settings.seed) for source in sources if len(source.fit)]
            return union(limited, "sample").prompts

        return observe_refusals(sample(examples.malicious), sample(examples.benign), self._reply, self.report)

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
        found: dict[str, ByLayer] = {}
        for contrast in contrasts:
            refused = self.readings.of(contrast.refused, "refused requests")
            complied = self.readings.of(contrast.complied, "complied requests")
            found[contrast.rule] = {n: refusal_direction(refused[n], complied[n]) for n in self.readings.layers}
        if len(found) > 1:
            found["mean of both"] = mean_direction(list(found.values()))
        return found

    def _push(
        self,
        examples: Examples,
        gate: GateCandidate,
        singles: Sequence[GateCandidate],
        directions: Mapping[str, ByLayer],
    ) -> tuple[list[Trial], float]:
        settings = self.settings
        held_out = [source.held_out for source in examples.malicious if len(source.held_out)]
        few, many = (
            PrefilledPrompts(
                self.model,
                self.tokenizer,
                self.template.render_all(union([s.limit(count, settings.seed) for s in held_out], "probes").prompts),
                self.template.reply_start,
                self.report,
                reuse=settings.preset == "default",
            )
            for count in (max(1, settings.probes // 3), settings.probes)
        )
        before = many.replies(settings.reply_tokens)
        trials = choose_push(
            self.model,
            [few, many],
            possible_pushes(gate.layer, len(self.decoder), list(directions), settings),
            lambda trial: self._build(trial, gate, singles, directions),
            settings,
            self.report,
        )
        return trials, sum(refuses(reply.text) for reply in before) / len(before)

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

    def _provenance(self, examples: Examples) -> dict[str, Any]:
        packages = ("alphasteer", "torch", "transformers")
        return {
            "settings": self.settings.model_dump(),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "prompts": {
                side: {
                    source.name: {
                        "fit": len(source.fit),
                        "held_out": len(source.held_out),
                        "digest": union([source.fit, source.held_out], source.name).digest,
                    }
                    for source in sources
                }
                for side, sources in (("benign", examples.benign), ("malicious", examples.malicious))
            },
        }


def _gate_record(candidate: GateCandidate) -> dict[str, Any]:
    ((layer, mu, alpha),) = candidate.fits
    return {"layer": layer, "mu": mu, "alpha": alpha, "auc": candidate.auc, "partial_auc": candidate.partial_auc}
