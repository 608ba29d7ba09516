"""Outcomes as the numbers that are written down and printed; ``results.schema.json`` states their form."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

from alphasteer.evaluation.arms import VANILLA
from alphasteer.evaluation.intervals import area_interval, area_test, bootstrap, mean_interval, sign_test, wilson
from alphasteer.evaluation.outcomes import Outcome
from alphasteer.evaluation.preferences import EVEN
from alphasteer.learning import area_under_roc

FORMAT = 1
AVERAGES = {
    "dsr": ("refusal", ("safety",)),
    "over_refusal": ("refusal", ("over-refusal",)),
    "utility": ("accuracy", ("utility",)),
    "identical": ("identical", ("over-refusal", "utility")),
}
"""What is averaged: a metric, over the suites of some kinds."""


def results(
    outcomes: Sequence[Outcome],
    *,
    model: str,
    steering: str | None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All numbers of an evaluation: shares with 95 % intervals, paired tests between arms, averages.

    Args:
        outcomes: what was replied, and read where replies start.
        model: what was steered.
        steering: the digest of the steering that was judged, if there was one.
        settings: how it was measured: the judges, the replies' length, ...
    """
    arms, averaged = list(outcomes[0].marks), _averaged(outcomes)
    means = {arm: _averages(averaged, arm) for arm in arms}
    asked = dict.fromkeys(who for outcome in outcomes for who in outcome.tokens)
    return {
        "format": FORMAT,
        "model": model,
        "steering": steering,
        "arms": arms,
        "settings": dict(settings or {}),
        "suites": {outcome.suite.name: _suite(outcome, outcomes) for outcome in outcomes},
        "averages": {arm: {name: of and of["value"] for name, of in means[arm].items()} for arm in arms},
        "average_intervals": means,
        "tests": {one: {other: _pooled(averaged, one, other) for other in rest} for one, rest in _pairs(arms).items()},
        "judge_tokens": {who: sum(o.tokens[who] for o in outcomes if who in o.tokens) for who in asked},
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            **{name: version(name) for name in ("alphasteer", "torch", "transformers")},
        },
    }


def _suite(outcome: Outcome, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    # A metric that nobody judged is left out, not scored.
    metrics = {
        arm: {metric: _share(outcome, arm, metric) for metric in marks if outcome.judged(arm, metric)}
        for arm, marks in outcome.marks.items()
    }
    for arm, measured in _measured(outcome).items():
        for metric, each in measured.items():
            if known := [value for value in each if value is not None]:
                metrics[arm][metric] = _estimate(sum(known) / len(known), bootstrap(known))
    scores = _scores(outcome, outcomes)
    return {
        "kind": outcome.suite.kind,
        "metric": outcome.suite.metric,
        "n": len(outcome),
        "left_out": outcome.suite.left_out,
        "prompts": outcome.suite.prompts.digest,
        "metrics": metrics,
        "unjudged": {arm: len(outcome) - outcome.judged(arm, "refusal") for arm in outcome.marks},
        "uncompared": {arm: fared.count(None) for arm, fared in outcome.wins.items()},
        "p_values": {arm: _tests(outcome, scores, VANILLA, arm) for arm in outcome.marks if arm != VANILLA},
        "p_values_between": {
            one: {other: _tests(outcome, scores, one, other) for other in rest}
            for one, rest in _pairs([arm for arm in outcome.marks if arm != VANILLA]).items()
        },
        "gates": {
            arm: {
                "opened": _counted(float((read.opened > 0).double().mean()), len(read.opened)),
                "auc": _area(*scores[arm]) if arm in scores else None,
            }
            for arm, read in outcome.starts.items()
        },
    }


def _estimate(value: float, interval: tuple[float, float]) -> dict[str, float]:
    low, high = interval
    return {"value": value, "low": low, "high": high}


def _counted(share: float, n: int) -> dict[str, float]:
    return _estimate(share, wilson(share, n))


def _share(outcome: Outcome, arm: str, metric: str) -> dict[str, float]:
    share = outcome.share(arm, metric)
    if metric == "identical" and arm == VANILLA:  # to itself, by definition
        return _estimate(share, (share, share))
    return _counted(share, outcome.judged(arm, metric))


def _area(harmless: list[float], malicious: list[float]) -> dict[str, float]:
    value = area_under_roc(torch.tensor(harmless), torch.tensor(malicious))
    return _estimate(value, area_interval(harmless, malicious))


def _measured(outcome: Outcome) -> dict[str, dict[str, Sequence[float | None]]]:
    """By arm, what is measured of every prompt rather than counted: divergence in nats, and how its reply fares."""
    found: dict[str, dict[str, Sequence[float | None]]] = {arm: {} for arm in outcome.marks}
    for arm, read in outcome.starts.items():
        if bool(torch.isfinite(read.divergence).all()):  # else pushed so hard that the logits overflowed
            found[arm]["kl"] = read.divergence.tolist()
    for arm, fared in outcome.wins.items():
        found[arm]["win_rate"] = fared
    return found


def _scores(outcome: Outcome, outcomes: Sequence[Outcome]) -> dict[str, tuple[list[float], list[float]]]:
    """By arm, its gate's scores of all harmless suites together and of this malicious one; empty if there are none.

    An arm whose gate reads the same everywhere, since it is always open, is left out.
    """
    harmless = [o.starts for o in outcomes if o.suite.kind != "safety"]
    if outcome.suite.kind != "safety" or not harmless:
        return {}
    found = {
        arm: (torch.cat([starts[arm].score for starts in harmless]).tolist(), read.score.tolist())
        for arm, read in outcome.starts.items()
    }
    return {arm: scores for arm, scores in found.items() if len({*scores[0], *scores[1]}) > 1}


def _pairs(arms: Sequence[str]) -> dict[str, Sequence[str]]:
    """Each arm and those after it: every pair once."""
    return {arm: arms[place:] for place, arm in enumerate(arms, start=1) if arms[place:]}


def _tests(
    outcome: Outcome, scores: Mapping[str, tuple[list[float], list[float]]], one: str, other: str
) -> dict[str, float]:
    """A paired test of each metric that both arms have, and of the areas under their gates' ROC curves."""
    measured = _measured(outcome)
    first, second = ({**outcome.marks[arm], **measured[arm]} for arm in (one, other))
    if one == VANILLA:  # each of its replies fares as well as itself
        first["win_rate"] = (EVEN,) * len(outcome)
    found = {m: _paired(first[m], second[m]) for m in second if m in first and _is_tested(m, one)}
    areas = area_test(scores[one], scores[other]) if {one, other} <= set(scores) else None
    return found if areas is None else {**found, "auc": areas}


def _is_tested(metric: str, one: str) -> bool:
    """How alike an arm is to vanilla needs no test with that one."""
    return not (metric == "identical" and one == VANILLA)


def _paired(one: Sequence[float | None], other: Sequence[float | None]) -> float:
    """The sign test on the prompts of which both replies were judged."""
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return sign_test([a for a, _ in both], [b for _, b in both])


def _averaged(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """The suites that each average is over; one of which any arm was not judged counts for none."""
    return {
        average: [
            o
            for o in outcomes
            if o.suite.kind in kinds and metric in o.marks[VANILLA] and all(o.judged(arm, metric) for arm in o.marks)
        ]
        for average, (metric, kinds) in AVERAGES.items()
    }


def _averages(averaged: Mapping[str, Sequence[Outcome]], arm: str) -> dict[str, dict[str, float] | None]:
    """Means over suites: refusals of safety suites, right answers of utility suites, unchanged harmless replies."""
    found: dict[str, dict[str, float] | None] = dict.fromkeys(averaged)
    for average, over in averaged.items():
        metric = AVERAGES[average][0]
        shares = [_share(o, arm, metric) for o in over]
        if shares:
            values, intervals = [s["value"] for s in shares], [(s["low"], s["high"]) for s in shares]
            found[average] = _estimate(sum(values) / len(values), mean_interval(values, intervals))
    return found


def _pooled(averaged: Mapping[str, Sequence[Outcome]], one: str, other: str) -> dict[str, float]:
    """A paired test of each average, on all prompts that it is over."""
    found = {}
    for average, over in averaged.items():
        metric = AVERAGES[average][0]
        if over and _is_tested(metric, one):
            found[average] = _paired(*([mark for o in over for mark in o.marks[arm][metric]] for arm in (one, other)))
    return found
