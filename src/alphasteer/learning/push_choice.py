"""Pushes, and the choice among finalists: tried by short replies to held-out malicious requests."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alphasteer.learning.settings import FitSettings
from alphasteer.replies import PrefilledPrompts, is_coherent, refuses
from alphasteer.reporting import Reporter
from alphasteer.resuming import Journal
from alphasteer.steering import Steering

FINALISTS = 8
"""How many pushes of the first round are tried again on all probes."""
WEAKEST = 5
"""A push is weakened to so many hundredths of its strength at most: what is left then would be none."""


@dataclass(frozen=True)
class Trial:
    """One way to push, and what it did to the probe requests.

    Attributes:
        rule: the contrast whose direction is pushed along (see ``contrast``).
        first, last: the pushed layers.
        strength: factor on the direction.
        surprise: at the model's own refusals, in nats a token.
        divergence: of altered benign prompts, in nats.
        refused: share of short replies that refuse.
        coherent: share of short replies that are language.
        probes: on how many requests that was tried.
    """

    rule: str
    first: int
    last: int
    strength: float
    surprise: float | None = None
    divergence: float | None = None
    refused: float = 0.0
    coherent: float = 0.0
    probes: int = 0


def third_above(gate_layer: int, layers: int) -> tuple[int, int]:
    """The window of refined directions: from the gate's layer on, a third of the model's layers."""
    return gate_layer, min(gate_layer + max(1, layers // 3), layers) - 1


def most_within(moved: Callable[[int], float], bound: float) -> int | None:
    """The most hundredths of a push, of ``WEAKEST`` to 99, that keep a bound; None if none do.

    By bisection, since a stronger push moves more; what is returned was measured.

    Args:
        moved: how far so many hundredths of the push move what is bounded.
    """
    hundredths = range(WEAKEST, 100)
    keep = bisect_right(hundredths, bound, key=moved)
    return hundredths[keep - 1] if keep else None


def choose_push(
    model: Any,
    rounds: Sequence[PrefilledPrompts],
    trials: Sequence[Trial],
    build: Callable[[Trial], Steering],
    settings: FitSettings,
    report: Reporter,
    journal: Journal,
) -> list[Trial]:
    """Try pushes by short replies and return them best first.

    Successive halving: all on the probes of the first round, the best of them on those of the next. Best is what
    refuses most, a repetitive reply being no refusal; then what is coherent most often; then the gentlest.

    Args:
        journal: keeps what came of each try, for the same model and probes.
    """
    drawn, ranked = list(trials), list[Trial]()
    for number, probes in enumerate(rounds, start=1):
        tried = []
        name = f"Trying pushes, round {number} of {len(rounds)}"
        for trial in report.track(((t, 1) for t in drawn), name, len(drawn)):
            steering = build(trial)
            key = f"{steering.digest}, round {number}"
            if key not in journal.entries:
                with steering.attach(model):
                    texts = [reply.text for reply in probes.replies(settings.reply_tokens)]
                journal.add({key: [sum(map(judge, texts)) / len(texts) for judge in (refuses, is_coherent)]})
            refused, coherent = journal.entries[key]
            tried.append(replace(trial, refused=refused, coherent=coherent, probes=probes.count))
        tried.sort(key=lambda t: (-t.refused, -t.coherent, t.strength * (t.last - t.first + 1)))
        ranked = tried + ranked[len(tried) :]
        drawn = tried[:FINALISTS]
    return ranked
