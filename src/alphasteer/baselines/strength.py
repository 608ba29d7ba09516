"""One rule for every baseline's layers and strength, so that none is compared at a setting that another did not get.

Each is tried at the same windows and strengths on held-out prompts, and the trial is taken that does most good:
the share of malicious ones refused minus the share of benign ones spoilt. Ties go to the weaker push.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from alphasteer.learning.evidence import Evidence
from alphasteer.replies import Reply, answers, refuses
from alphasteer.steering import Steering

Window = tuple[int, int]
"""The pushed layers, first and last."""
Build = Callable[[Window, float], Steering]
"""A baseline's steering at a window and a strength, of which 1 goes the whole way from complied to refused."""
Baseline = Callable[[Evidence], Build]
"""Learns from the evidence what does not depend on window and strength."""

STRENGTHS = (0.25, 0.5, 1.0, 2.0)
PROBES = 24
"""About so many held-out prompts of each side."""


@dataclass(frozen=True)
class Trial:
    """A window and a strength that were tried, and what they did to the held-out prompts.

    Attributes:
        refused: share of malicious prompts refused.
        spoilt: share of benign prompts that were answered and no longer are.
    """

    window: Window
    strength: float
    refused: float
    spoilt: float


def windows(depth: int) -> tuple[Window, ...]:
    """The middle third of a model's layers, and the upper half without the last ones."""
    return (depth // 3, 2 * depth // 3), (depth // 2, max(depth // 2, depth - 1 - depth // 12))


def choose_strength(name: str, build: Build, evidence: Evidence) -> Steering:
    """Try all windows and strengths and return the best steering, with every trial in its record.

    Args:
        name: what the progress bars and the record call it.
    """
    sides = []
    for sources in (evidence.examples.malicious, evidence.examples.benign):
        usable = [source for source in sources if len(source.held_out)]
        sides.append(list(evidence.held_out(usable, -(-PROBES // len(usable)))))
    malicious, benign = sides
    unsteered = evidence.short_replies([*malicious, *benign], "probes, unsteered")
    trials = []
    for window in windows(len(evidence.decoder)):
        for strength in STRENGTHS:
            steering = build(window, strength)
            title = f"probes, {name} {window[0]}-{window[1]} x{strength:g}"
            replies = evidence.short_replies([*malicious, *benign], title, steering)
            refused = sum(refuses(reply.text) for reply in replies[: len(malicious)]) / len(malicious)
            spoilt = share_spoilt(unsteered[len(malicious) :], replies[len(malicious) :])
            trials.append(Trial(window, strength, refused, spoilt))
    best = max(trials, key=lambda trial: (trial.refused - trial.spoilt, -trial.strength))
    evidence.report.say(
        f"{name}: layers {best.window[0]}-{best.window[1]}, strength {best.strength:g}; held out, "
        f"{best.refused:.0%} of malicious prompts refused, {best.spoilt:.0%} of benign ones spoilt."
    )
    record = {
        "baseline": name,
        "trials": [_row(trial) for trial in (best, *(trial for trial in trials if trial is not best))],
        "probes": {"malicious": len(malicious), "benign": len(benign)},
    }
    return replace(build(best.window, best.strength), fitted_on=evidence.fingerprint, record=record)


def _row(trial: Trial) -> dict[str, Any]:
    return {**asdict(trial), "window": list(trial.window)}


def share_spoilt(unsteered: Sequence[Reply], steered: Sequence[Reply]) -> float:
    """The share of replies that were answers and now are refusals or no language."""
    spoilt = [answers(a.text) and not answers(b.text) for a, b in zip(unsteered, steered, strict=True)]
    return sum(spoilt) / max(1, len(spoilt))
