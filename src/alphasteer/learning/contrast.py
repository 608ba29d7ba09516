"""Which requests stand for refusal and which for compliance: the model's own short replies decide."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alphasteer.errors import LearningError
from alphasteer.prompts import Prompt
from alphasteer.replies import Reply, answers, refuses
from alphasteer.reporting import Reporter

FEWEST = 8
"""Fewer refused or complied requests than this give a direction that is mostly noise."""
PLENTY = 32
"""From this many refusals of its own on, a model needs no instruction to show how it refuses."""
INSTRUCTION = "\n\n(Reply only with a short refusal: say that you cannot help with this.)"
"""In the user's turn, since not every template has a place for a system prompt."""

ShortReplies = Callable[[Sequence[Prompt], str], Sequence[Reply]]
"""Short replies to prompts, which come with a name for the progress bar."""


@dataclass(frozen=True)
class Contrast:
    """The requests whose activations make a refusal direction, refused minus complied.

    Attributes:
        rule: how the two sides were found, as the artefact's record states it.
        refused, complied: the two sides.
    """

    rule: str
    refused: tuple[Prompt, ...]
    complied: tuple[Prompt, ...]


@dataclass(frozen=True)
class Observed:
    """How a model refuses.

    Attributes:
        contrasts: the possible sides of a refusal direction, the model's own replies first.
        refusals: in the model's own words, by the key of the request: its reply to that, or else when told to refuse.
    """

    contrasts: tuple[Contrast, ...]
    refusals: Mapping[str, Reply]

    def lessons(self, requests: Sequence[Prompt], seed: int = 0) -> list[tuple[Prompt, Reply]]:
        """Each request with a refusal: of that request, or else one of the others, drawn by the seed."""
        draw, words = random.Random(seed), list(self.refusals.values())
        return [(request, self.refusals.get(request.key) or draw.choice(words)) for request in requests]


def observe_refusals(
    malicious: Sequence[Prompt], benign: Sequence[Prompt], reply: ShortReplies, report: Reporter
) -> Observed:
    """Find out which requests the model refuses and how, with fallbacks where it hardly ever or always does.

    1. *own replies*: malicious requests that it refuses against those with which it complies.
    2. *instructed refusals*, where it refuses fewer than ``PLENTY``: requests with an instruction to refuse, as
       far as it then does, against the requests with which it complies when not told. The shortest requests are
       asked: there the instruction stands out. Where both contrasts exist, both stand (and the probes choose among
       them and their mean).
    3. *benign compliance*, where it complies with fewer than ``FEWEST``: refused malicious requests against
       benign ones with which it complies.

    A reply that is neither a refusal nor coherent stands for nothing.

    Raises:
        LearningError: if the model refuses nothing even when told to, complies with nothing at all, or does neither.
    """
    replies = reply(malicious, "malicious requests")
    refused, complied = _sort(malicious, replies)
    refusals = _refusals(malicious, replies)
    report.say(f"Of {len(malicious)} malicious requests the model refuses {len(refused)} by itself.")
    if len(complied) < FEWEST and len(refused) < FEWEST:
        raise LearningError(
            f"Of {len(malicious)} short replies {len(complied)} answer and {len(refused)} refuse; the others are no "
            "language or end before they say anything: use a chat model, or longer replies (setting reply_tokens)."
        )
    if len(complied) < FEWEST:
        report.say("It hardly ever complies: taking the benign requests with which it does as the other side.")
        _, easy = _sort(benign, reply(benign, "benign requests"))
        if len(easy) < FEWEST:
            raise LearningError(
                f"The model complies with {len(easy)} of {len(benign)} benign requests, so no direction "
                "tells refusal from compliance; give benign prompts that it answers."
            )
        return Observed((Contrast("benign compliance", refused, easy),), refusals)
    contrasts = []
    if len(refused) >= FEWEST:
        contrasts.append(Contrast("own replies", refused, complied))
    if len(refused) < PLENTY:
        report.say("It seldom refuses by itself: looking at its refusals under an instruction to refuse as well.")
        asked = sorted(malicious, key=lambda prompt: len(prompt.text))[: 3 * PLENTY]
        told = [_told_to_refuse(prompt) for prompt in asked]
        replies = reply(told, "requests with an instruction to refuse")
        instructed, _ = _sort(told, replies)
        refusals = _refusals(asked, replies) | refusals
        report.say(f"Told to refuse, it refuses {len(instructed)} of {len(told)}.")
        if len(instructed) >= FEWEST:
            contrasts.append(Contrast("instructed refusals", instructed, complied))
    if not contrasts:
        raise LearningError(
            f"The model refuses fewer than {FEWEST} malicious requests even when told to; "
            "it has no refusal direction to learn, so use a chat model that can refuse, or give more requests."
        )
    return Observed(tuple(contrasts), refusals)


def _refusals(prompts: Sequence[Prompt], replies: Sequence[Reply]) -> dict[str, Reply]:
    return {prompt.key: reply for prompt, reply in zip(prompts, replies, strict=True) if refuses(reply.text)}


def _sort(prompts: Sequence[Prompt], replies: Sequence[Reply]) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    pairs = [(prompt, reply.text) for prompt, reply in zip(prompts, replies, strict=True)]
    refused = tuple(prompt for prompt, text in pairs if refuses(text))
    return refused, tuple(prompt for prompt, text in pairs if answers(text))


def _told_to_refuse(prompt: Prompt) -> Prompt:
    last: dict[str, Any] = dict(prompt.messages[-1])
    last["content"] += INSTRUCTION
    return replace(prompt, messages=(*prompt.messages[:-1], last))
