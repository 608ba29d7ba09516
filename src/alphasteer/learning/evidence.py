"""What a method learns from, each part found when first asked for: activations, refusals, directions."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alphasteer.errors import LearningError
from alphasteer.learning.contrast import Observed, observe_refusals
from alphasteer.learning.directions import mean_direction, refusal_direction
from alphasteer.learning.examples import Examples, Source
from alphasteer.learning.readings import Activations, ByLayer, Examined, Readings
from alphasteer.learning.settings import FitSettings
from alphasteer.models import Fingerprint, check_decoder, context_length, find_decoder, fingerprint, loaded_digest
from alphasteer.prompts import ChatTemplate, Prompt, in_contexts, union
from alphasteer.replies import Reply, compare_replies
from alphasteer.reporting import Reporter
from alphasteer.resuming import Shelf
from alphasteer.steering import Steering

HIGHEST_GATE = 0.6
"""A gate reads no higher than this share of the layers, unless told to: what is above is left to be pushed."""

LESSONS = 200
"""Directions are refined on about so many malicious requests."""


def gate_layers(settings: FitSettings, depth: int) -> range:
    """The layers that a gate may read; the lowest quarter never separates.

    Raises:
        LearningError: if the layers asked for are not there, or leave no room for a gate.
    """
    lowest, last = depth // 4, depth - 2  # above the gate, something must be left to push
    first, end = settings.window or (lowest, depth - 1)
    if not lowest <= first <= end < depth:
        raise LearningError(
            f"Layers {settings.layers} cannot be pushed: choose among {lowest}-{depth - 1}, the first one the lower."
        )
    asked = settings.gate_layer
    if asked is not None and not lowest <= asked <= min(last, first if settings.window else last):
        raise LearningError(f"The gate must read a layer between {lowest} and {last}, not above a pushed one.")
    if settings.preset == "paper" or asked is not None:
        return range(lowest, last + 1)
    return range(lowest, min(last, int(HIGHEST_GATE * depth) if settings.window is None else first) + 1)


class Evidence:
    """One model and the examples it is studied on; the method and every baseline learn from the same.

    Attributes:
        decoder, template, fingerprint: what is known of the model.
        loaded: what tells it from others on the shelf.
        same: what tells measurements of this model, by this version's rules, from others on the shelf.
        readings: activations of any prompts, from the first quarter of the layers on.
        gate_readings: the same up to the highest layer that a gate may read: what lies above need not run; where
            gates read prompts' ends, too, with the means there beside them.
        prompt_end: over which tokens gates read means; None where they read the reply start alone.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        examples: Examples,
        settings: FitSettings,
        report: Reporter,
        shelf: Shelf,
        *,
        every_layer: bool = False,
    ) -> None:
        """Nothing is read yet.

        Args:
            every_layer: gates may read any layer, as some baselines' do.

        Raises:
            LearningError: if the settings ask for layers that the model does not have.
        """
        self.model, self.tokenizer, self.examples = model, tokenizer, examples
        self.settings, self.report, self.shelf = settings, report, shelf
        self.decoder = find_decoder(model)
        check_decoder(model, self.decoder)
        self.template = ChatTemplate(tokenizer)
        self.fingerprint: Fingerprint = fingerprint(model, tokenizer)
        self.loaded = loaded_digest(model)
        self.same = [self.loaded, str(model.dtype), version("alphasteer")]
        depth, readable = len(self.decoder), gate_layers(settings, len(self.decoder))
        above = range(readable.start, depth)
        # The paper's form, and the baselines', read at the reply start alone.
        asked = settings.prompt_end and settings.preset != "paper" and not every_layer
        if asked and self.template.prompt_end is None:
            report.say("This chat template opens no user's turn alike, so gates read the reply start alone.")
        self.prompt_end = self.template.prompt_end if asked else None
        self.readings, self.gate_readings = (
            Readings(model, self.decoder, self.template, layers, shelf, report, [self.loaded], prompt_end=end)
            for layers, end in ((above, None), (above if every_layer else readable, self.prompt_end))
        )

    @cached_property
    def examined(self) -> Examined:
        """Activations of all examples, by side and source.

        Raises:
            LearningError: if an activation is not finite.
            PromptError: if a prompt is longer than the model's context.
        """
        return self._examined(self._sides, "")

    @cached_property
    def placings(self) -> dict[str, Examined]:
        """The same by how the prompts stand: alone, half of them in chats, and the other half (see ``in_contexts``).

        Held-out prompts stand in other chats than those to fit on. Alone only, if no prompt can be put into a chat,
        and where none is to be.
        """
        found = {"alone": self.examined}
        if not self.settings.contexts or self.settings.preset == "paper":
            return found
        alone, longest = [[s.fit for s in side] for side in self._sides], context_length(self.model)
        for other_half, how in ((False, "half in chats"), (True, "other half in chats")):
            place = in_contexts(self.template, self.settings.seed, longest, other_half=other_half)
            placed = [
                [replace(s, fit=place(s.fit, "fit"), held_out=place(s.held_out, "validation")) for s in side]
                for side in self._sides
            ]
            if [[s.fit for s in side] for side in placed] != alone:
                found[how] = self._examined(placed, f", {how}")
        if len(found) == 1:
            self.report.say("No prompt can be put into another chat: the gate is learned from prompts as they are.")
        return found

    @property
    def _sides(self) -> Sequence[Sequence[Source]]:
        return self.examples.benign, self.examples.malicious

    def _examined(self, sides: Sequence[Sequence[Source]], how: str) -> Examined:
        total, number, examined = sum(map(len, sides)), 0, []
        for side in sides:
            activations = {}
            for source in side:
                number += 1
                name = f"{number} of {total}, {Path(source.name).name}{how}"
                fitted = self.gate_readings.of(source.fit.prompts, name)
                held_out = self.gate_readings.of(source.held_out.prompts, f"{name}, held out")
                activations[source.name] = Activations(fitted, held_out)
            examined.append(activations)
        return Examined(*examined)

    @cached_property
    def observed(self) -> Observed:
        """How the model refuses a sample of the malicious examples (see ``observe_refusals``)."""
        examples, count = self.examples, self.settings.replies
        malicious, benign = self.sample(examples.malicious, count), self.sample(examples.benign, count)
        return observe_refusals(malicious, benign, self.short_replies, self.report)

    @cached_property
    def lessons(self) -> list[tuple[Prompt, Reply]]:
        """Malicious examples, each with a refusal in the model's own words: of it, or of another."""
        return self.observed.lessons(self.sample(self.examples.malicious, LESSONS), self.settings.seed)

    @cached_property
    def directions(self) -> dict[str, ByLayer]:
        """Refusal directions by rule: each contrast's, and their mean where there are two."""
        found: dict[str, ByLayer] = {}
        for contrast in self.observed.contrasts:
            refused = self.readings.of(contrast.refused, "refused requests")
            complied = self.readings.of(contrast.complied, "complied requests")
            found[contrast.rule] = {n: refusal_direction(refused[n], complied[n]) for n in self.readings.layers}
        if len(found) > 1:
            found["mean of both"] = mean_direction(list(found.values()))
        return found

    def sample(self, sources: Sequence[Source], count: int) -> Sequence[Prompt]:
        """About so many of the sources' fit prompts, drawn by the seed, as many of each."""
        fitted = [source.fit for source in sources if len(source.fit)]
        share = -(-count // len(fitted))
        return union([prompts.limit(share, self.settings.seed) for prompts in fitted], "sample").prompts

    def held_out(self, sources: Sequence[Source], share: int) -> Sequence[Prompt]:
        """At most ``share`` held-out prompts of each source, drawn by the seed."""
        kept = [source.held_out.limit(share, self.settings.seed) for source in sources if len(source.held_out)]
        return union(kept, "probes").prompts

    def short_replies(self, prompts: Sequence[Prompt], name: str, steering: Steering | None = None) -> list[Reply]:
        """Greedy replies of ``settings.reply_tokens``, perhaps under a steering, kept on the shelf.

        Args:
            name: what the progress bar calls the prompts.
        """
        (replies,) = compare_replies(
            self.model,
            self.tokenizer,
            self.template.render_all(prompts, context_length(self.model)),
            self.template.reply_start,
            {name: steering},
            self.report,
            max_new_tokens=self.settings.reply_tokens,
            shelf=self.shelf,
            description=f"Short replies to {name}",
        ).values()
        return replies
