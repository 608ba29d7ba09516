"""Which requests stand for refusal and which for compliance: the model's own short replies decide."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from alphasteer.errors import LearningError
from alphasteer.prompts import Prompt
from alphasteer.replies import Reply, is_coherent, refuses
from alphasteer.reporting import Reporter

FEWEST = 8
"""Fewer refused or complied requests than this give a direction that is mostly noise."""
PLENTY = 64
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
class Behaviour:
    """How a model refuses: the contrasts it shows, and the first tokens of its replies of either kind."""

    contrasts: tuple[Contrast, ...]
    refused_openings: tuple[int, ...]
    complied_openings: tuple[int, ...]


@dataclass(frozen=True)
class _Sorted:
    refused: tuple[Prompt, ...]
    complied: tuple[Prompt, ...]
    refused_openings: tuple[int, ...]
    complied_openings: tuple[int, ...]


def observe_refusals(
    malicious: Sequence[Prompt], benign: Sequence[Prompt], reply: ShortReplies, report: Reporter
) -> Behaviour:
    """Find out which requests the model refuses, with fallbacks where it hardly ever or always does.

    1. *own replies*: malicious requests that it refuses against those with which it complies.
    2. *instructed refusals*, where it refuses fewer than ``PLENTY``: requests with an instruction to refuse, as
       far as it then does, against the requests with which it complies when not told. Where both exist, both stand
       (and the probes choose among them and their mean).
    3. *benign compliance*, where it complies with fewer than ``FEWEST``: refused malicious requests against
       benign ones with which it complies.

    A reply that is neither a refusal nor coherent stands for nothing.

    Raises:
        LearningError: if the model refuses nothing even when told to, or complies with nothing at all.
    """
    own = _sort(malicious, reply(malicious, "malicious requests"))
    report.say(f"Of {len(malicious)} malicious requests the model refuses {len(own.refused)} by itself.")
    if len(own.complied) < FEWEST:
        report.say("It hardly ever complies: taking the benign requests with which it does as the other side.")
        easy = _sort(benign, reply(benign, "benign requests"))
        if len(easy.complied) < FEWEST:
            raise LearningError(
                f"The model complies with {len(easy.complied)} of {len(benign)} benign requests, so no direction "
                "tells refusal from compliance; give benign prompts that it answers."
            )
        contrast = Contrast("benign compliance", own.refused, easy.complied)
        return Behaviour((contrast,), own.refused_openings, easy.complied_openings)
    contrasts = []
    openings = own.refused_openings
    if len(own.refused) >= FEWEST:
        contrasts.append(Contrast("own replies", own.refused, own.complied))
    if len(own.refused) < PLENTY:
        report.say("It seldom refuses by itself: looking at its refusals under an instruction to refuse as well.")
        told = [_told_to_refuse(prompt) for prompt in malicious]
        instructed = _sort(told, reply(told, "requests with an instruction to refuse"))
        report.say(f"Told to refuse, it refuses {len(instructed.refused)} of {len(told)}.")
        if len(instructed.refused) >= FEWEST:
            contrasts.append(Contrast("instructed refusals", instructed.refused, own.complied))
            openings += instructed.refused_openings
    if not contrasts:
        raise LearningError(
            f"The model refuses fewer than {FEWEST} of {len(malicious)} malicious requests even when told to; "
            "it has no refusal direction to learn, so use a chat model that can refuse, or give more requests."
        )
    return Behaviour(tuple(contrasts), openings, own.complied_openings)


def _sort(prompts: Sequence[Prompt], replies: Sequence[Reply]) -> _Sorted:
    pairs = list(zip(prompts, replies, strict=True))
    refused = [pair for pair in pairs if refuses(pair[1].text)]
    complied = [pair for pair in pairs if is_coherent(pair[1].text) and not refuses(pair[1].text)]
    return _Sorted(
        tuple(prompt for prompt, _ in refused),
        tuple(prompt for prompt, _ in complied),
        tuple(reply.tokens[0] for _, reply in refused),
        tuple(reply.tokens[0] for _, reply in complied),
    )


def _told_to_refuse(prompt: Prompt) -> Prompt:
    last: dict[str, Any] = dict(prompt.messages[-1])
    last["content"] += INSTRUCTION
    return Prompt(prompt.id, (*prompt.messages[:-1], last), prompt.category, prompt.split)
