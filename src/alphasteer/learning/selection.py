"""Choosing the push in stages: a cheap search, refinement where it found most, short replies of the finalists."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import version

from torch import Tensor

from alphasteer.learning.calibration import Calibration
from alphasteer.learning.evidence import Evidence
from alphasteer.learning.examples import Source
from alphasteer.learning.forms import between, one_gate
from alphasteer.learning.joint_gate import ChosenGate
from alphasteer.learning.push_choice import FINALISTS, Trial, choose_push, most_within, third_above
from alphasteer.learning.push_probes import Divergence, Surprise
from alphasteer.learning.push_search import PushSpace, different_windows, search_pushes
from alphasteer.learning.readings import ByLayer
from alphasteer.learning.refining import ROWS, TOKENS, refine
from alphasteer.learning.selected import FULL_REPLY, Selected
from alphasteer.models import counted_tokens
from alphasteer.prompts import Prompt
from alphasteer.replies import PrefilledPrompts, Reply, refuses
from alphasteer.steering import Steering
from alphasteer.steering.formula import gate_score

STRENGTHS = (0.6, 1.4)
"""The search tries strengths between these."""
UNREFINED = 2
"""So many of the search's best pushes are finalists as they are, beside refined ones."""
FEWEST_OPEN = 8
"""Nothing is searched or refined on fewer requests whose gate opens."""
MOST_OPEN = 32
"""Tries are measured on at most so many requests, and on as many altered benign prompts."""


class Selection:
    """One choice of a push for one calibrated gate."""

    def __init__(self, evidence: Evidence, gate: ChosenGate, calibration: Calibration) -> None:
        """Nothing is run yet."""
        self.evidence, self.gate, self.calibration = evidence, gate, calibration
        self.settings, self.model, self.report = evidence.settings, evidence.model, evidence.report
        self.depth = len(evidence.decoder)
        self.directions: dict[str, ByLayer] = dict(evidence.directions)

    def run(self) -> Selected:
        """Search, refine, judge."""
        settings = self.settings
        with counted_tokens(self.model) as tokens:
            searched = self._search()
            windows = self._windows(searched)
            finalists = [Trial(self._refined(rule, window), *window, self._strength) for rule, window in windows]
            finalists += searched[: UNREFINED if settings.refines else FINALISTS]
            probes = self.evidence.held_out(self.evidence.examples.malicious, settings.probes)
            rendered = self.evidence.template.render_all(probes)
            prefilled = self._prefilled(rendered)
            before = [refuses(reply.text) for reply in prefilled.replies(settings.reply_tokens)]
            finalists = [self._within_bound(push) for push in finalists]
            kept = self.evidence.shelf.journal("finalists", [*self.evidence.same, rendered, settings.reply_tokens])
            judged = choose_push(self.model, [prefilled], finalists, self.build, settings, self.report, kept)
            judged.sort(key=lambda push: (push.divergence or 0.0) > settings.divergence)  # within the bound first
            if (judged[0].divergence or 0.0) > settings.divergence:
                self.report.say(
                    f"Every push moves benign prompts that open the gate by over {settings.divergence:g} nats."
                )
        full = (len(searched) + len(finalists)) * sum(len(sequence) + FULL_REPLY for sequence in rendered)
        refused, altered = sum(before) / len(before), len(self._altered)
        return Selected(self.build(judged[0]), judged, searched, refused, tokens.count, full, altered)

    def build(self, push: Trial) -> Steering:
        """The steering that pushes like this."""
        vectors = between(self.directions[push.rule], push.first, push.last)
        return one_gate(self.gate, self.calibration, vectors, push.strength, self.evidence.template)

    def _prefilled(self, rendered: Sequence[Sequence[int]], rows: int | None = None) -> PrefilledPrompts:
        """Prompts run up to their reply starts."""
        template, tokenizer = self.evidence.template, self.evidence.tokenizer
        readers = [self.build(Trial(next(iter(self.directions)), self.gate.layer, self.gate.layer, 1.0))]
        return PrefilledPrompts(
            self.model, tokenizer, rendered, template.reply_start, self.report, rows=rows, readers=readers
        )

    def _within_bound(self, push: Trial) -> Trial:
        """The push and its divergence; as strong as the bound allows, if its strength is free and anything is left."""

        def weakened(hundredths: int) -> Trial:
            return replace(push, strength=push.strength * hundredths / 100)

        def moved(hundredths: int) -> float:
            return self._divergence.under(self.build(weakened(hundredths)))

        whole, bound = self._divergence.under(self.build(push)), self.settings.divergence
        most = None if whole <= bound or self.settings.strength is not None else most_within(moved, bound)
        if most is None:
            return replace(push, divergence=whole)
        return replace(weakened(most), divergence=moved(most))

    @property
    def _strength(self) -> float:
        """At which directions are refined: they take the length that they need."""
        return 1.0 if self.settings.strength is None else self.settings.strength

    @cached_property
    def _altered(self) -> list[list[int]]:
        """Held-out benign prompts whose gate opens, rendered."""
        return self._opened(self.evidence.examples.benign)

    @cached_property
    def _divergence(self) -> Divergence:
        """How far a push moves them."""
        return Divergence(self.model, self._prefilled(self._altered) if self._altered else None)

    def _search(self) -> list[Trial]:
        settings, rules = self.settings, tuple(self.directions)
        malicious = self._opened(self.evidence.examples.malicious)
        strengths = STRENGTHS if settings.strength is None else (settings.strength, settings.strength)
        space = PushSpace(rules, self.gate.layer, self.depth, strengths, settings.window)
        too_few = len(malicious) < FEWEST_OPEN
        if too_few:
            self.report.say(f"The gate opens on {len(malicious)} held-out requests: pushes are not searched for.")
        if too_few or not settings.trials:
            window = settings.window or third_above(self.gate.layer, self.depth)
            return [Trial(rule, *window, self._strength) for rule in rules]
        draw, own = random.Random(settings.seed), [reply for _, reply in self.evidence.lessons]
        refusals = [draw.choice(own).tokens[:TOKENS] for _ in malicious]
        # Both read their prompts here, before the search draws its bar: older terminals' libraries draw one at a time.
        surprise, divergence = Surprise(self.model, self._prefilled(malicious), refusals), self._divergence

        def measure(push: Trial) -> tuple[float, float]:
            steering = self.build(push)
            return surprise.under(steering), divergence.under(steering)

        whole = [self.build(Trial(rule, self.gate.layer, self.depth - 1, 1.0)).digest for rule in rules]
        rendered = [*malicious, *self._altered]
        search = [asdict(space), settings.divergence, settings.seed, version("optuna")]
        return search_pushes(
            space,
            measure,
            trials=settings.trials,
            minutes=settings.minutes,
            most_divergence=settings.divergence,
            seed=settings.seed,
            journal=self.evidence.shelf.journal("pushes", [*self.evidence.same, whole, rendered, refusals, *search]),
            report=self.report,
        )

    def _opened(self, sources: Sequence[Source]) -> list[list[int]]:
        """Held-out prompts whose gate opens, rendered; drawn by the seed, of each source as many as fit."""
        found = []
        for source in (source for source in sources if len(source.held_out)):
            streams = self.evidence.gate_readings.of(source.held_out.prompts, source.name)
            is_open = (gate_score(streams, self.gate.w) > self.calibration.threshold).tolist()
            prompts = [p for p, opens in zip(source.held_out.prompts, is_open, strict=True) if opens]
            found.append(random.Random(self.settings.seed).sample(prompts, len(prompts)))
        return self.evidence.template.render_all(shared_out(found, MOST_OPEN))

    def _windows(self, searched: Sequence[Trial]) -> list[tuple[str, tuple[int, int]]]:
        """Where to refine, and from which rule."""
        if not self.settings.refines:
            return []
        start = self.evidence.observed.contrasts[0].rule
        if self.settings.window is not None:
            return [(start, self.settings.window)]
        usual = third_above(self.gate.layer, self.depth)
        windows = dict.fromkeys([*different_windows(searched, self.settings.windows), usual])
        return [(start, window) for window in windows]

    def _refined(self, rule: str, window: tuple[int, int]) -> str:
        """The rule under which the refined directions of a window now stand; the old one if they cannot be learned."""
        name, settings = f"{rule}, refined on {window[0]}-{window[1]}", self.settings
        if name in self.directions:
            return name
        lessons, start = self._lessons, between(self.directions[rule], *window)
        if len(lessons) < FEWEST_OPEN:
            self.report.say(f"The gate opens on {len(lessons)} requests to learn from: directions stay as they are.")
            return rule
        refusals = [reply.tokens for _, reply in lessons]

        def build(vectors: Mapping[int, Tensor]) -> Steering:
            return one_gate(self.gate, self.calibration, vectors, self._strength, self.evidence.template)

        def refined() -> dict[str, Tensor]:
            steps, seed = settings.steps, settings.seed
            found = refine(self.model, self._taught, refusals, start, build, self.report, steps=steps, seed=seed)
            return {str(layer): r for layer, r in found.items()}

        rendered = [request for request, _ in lessons]
        same = [*self.evidence.same, build(start).digest, rendered, refusals, settings.steps, settings.seed]
        kept = self.evidence.shelf.tensors("refined", same, refined)
        self.directions[name] = {int(layer): r for layer, r in kept.items()}
        return name

    @cached_property
    def _lessons(self) -> list[tuple[list[int], Reply]]:
        """Requests whose gate opens, rendered, with refusals in the model's own words."""
        requests, replies = (
            [prompt for prompt, _ in self.evidence.lessons],
            [reply for _, reply in self.evidence.lessons],
        )
        streams = self.evidence.gate_readings.of(requests, "malicious requests")
        opened = (gate_score(streams, self.gate.w) > self.calibration.threshold).tolist()
        rendered = self.evidence.template.render_all(requests)
        return [(r, reply) for r, reply, is_open in zip(rendered, replies, opened, strict=True) if is_open]

    @cached_property
    def _taught(self) -> PrefilledPrompts:
        """The same requests, run."""
        return self._prefilled([request for request, _ in self._lessons], ROWS)


def shared_out(sources: Sequence[Sequence[Prompt]], most: int) -> list[Prompt]:
    """At most ``most`` prompts, as many of each source that has any; one of each at least."""
    share = max(1, most // max(1, sum(map(bool, sources))))
    return [prompt for prompts in sources for prompt in prompts[:share]]
