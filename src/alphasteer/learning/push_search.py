"""Where to push, how far and along which direction: a search in which one try costs one short forward.

A try's measure is how surprised the pushed model is at its own refusals of malicious requests whose gate opens
(teacher-forced, on caches that hold everything before the reply start), subject to a bound on how far the next-token
distribution of benign prompts moves. What is best here is a finalist, judged by replies (see ``push_choice``).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from alphasteer.errors import LearningError
from alphasteer.learning.push_choice import Trial
from alphasteer.reporting import Reporter
from alphasteer.resuming import Journal

PENALTY = 10.0
"""Nats of surprise that one nat of divergence beyond the bound counts as."""
DRAWN = 10
"""So many tries are drawn at random before the search learns from what it found."""


@dataclass(frozen=True)
class PushSpace:
    """What is searched.

    Attributes:
        rules: the directions, by the rule that found them.
        lowest: the first layer that may be pushed, the gate's highest.
        depth: the model's number of layers.
        strengths: the least and the most; equal where it is given.
        window: the only one to be tried, if given.
    """

    rules: tuple[str, ...]
    lowest: int
    depth: int
    strengths: tuple[float, float]
    window: tuple[int, int] | None = None


def search_pushes(
    space: PushSpace,
    measure: Callable[[Trial], tuple[float, float]],
    *,
    trials: int,
    minutes: float | None,
    most_divergence: float,
    seed: int,
    journal: Journal,
    report: Reporter,
) -> list[Trial]:
    """The pushes that were tried, with surprise and divergence, best first; each push once.

    A tree-structured Parzen estimator (Bergstra et al. 2011; Optuna's) proposes. The same seed proposes the same, and
    an interrupted search, begun again, is told what it knew, so it ends where an uninterrupted one does.

    Args:
        measure: a push's surprise in nats a token, and the benign prompts' mean divergence in nats.
        trials: how many tries.
        minutes: no new try begins when the tries have taken so long, those of an interrupted search among them.
        most_divergence: the bound on the second.
        journal: keeps every try.

    Raises:
        LearningError: if the journal holds another search's tries.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=DRAWN))
    spent = 0.0
    found: dict[Trial, Trial] = {}  # by the push as proposed, the push as measured
    for number in report.track(((n, 1) for n in range(trials)), "Searching pushes", trials):
        if minutes is not None and spent > 60 * minutes and found and number not in journal.entries:
            break
        proposal = study.ask()
        push = _proposed(proposal, space)
        known = journal.entries.get(number)
        if known is None:
            same, begun = found.get(push), time.monotonic()
            measured = [same.surprise, same.divergence] if same else measure(push)
            known = {"push": asdict(push), "measured": measured, "seconds": time.monotonic() - begun}
            journal.add({number: known})
        if known["push"] != asdict(push):
            raise LearningError(f"{journal.path} holds another search's tries; remove it, or choose another folder.")
        spent += known.get("seconds", 0.0)  # earlier versions did not keep it
        surprise, divergence = known["measured"]
        found[push] = replace(push, surprise=surprise, divergence=divergence)
        study.tell(proposal, surprise + PENALTY * max(0.0, divergence - most_divergence))

    def worth(push: Trial) -> tuple[bool, float]:
        assert push.surprise is not None
        assert push.divergence is not None
        return push.divergence > most_divergence, push.surprise

    return sorted(found.values(), key=worth)


def _proposed(proposal: Any, space: PushSpace) -> Trial:
    rule = proposal.suggest_categorical("rule", space.rules)
    least, most = space.strengths
    strength = least if least == most else round(proposal.suggest_float("strength", least, most, step=0.1), 1)
    if space.window is not None:
        return Trial(rule, *space.window, strength)
    # A window begins in the lower half of what may be pushed, and is as long as there is room for.
    last_first = max(space.lowest, (space.lowest + space.depth) // 2 - 1)
    first = proposal.suggest_int("first", space.lowest, last_first)
    share = proposal.suggest_float("share", 0.2, 1.0)
    return Trial(rule, first, first + max(0, round(share * (space.depth - first)) - 1), strength)


def different_windows(pushes: Sequence[Trial], count: int) -> list[tuple[int, int]]:
    """The windows of the best pushes, each once."""
    return list(dict.fromkeys((push.first, push.last) for push in pushes))[:count]
