"""Outcomes as the numbers that are written down and printed; ``results.schema.json`` states their form."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from alphasteer.evaluation.arms import VANILLA
from alphasteer.evaluation.evaluating import Outcome
from alphasteer.evaluation.intervals import area_interval, bootstrap, mcnemar, wilson
from alphasteer.learning import area_under_roc

FORMAT = 1
AVERAGES = {
    "dsr": ("refusal", ("safety",)),
    "over_refusal": ("refusal", ("over-refusal",)),
    "utility": ("accuracy", ("utility",)),
    "identical": ("identical", ("over-refusal", "utility")),
}
"""What is averaged: a metric, over the suites of some kinds."""
MISSING = {"refusal": "unjudged", "win_rate": "uncompared"}
"""Where a suite's results say how many replies have no verdict."""


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
    return {
        "format": FORMAT,
        "model": model,
        "steering": steering,
        "arms": arms,
        "settings": dict(settings or {}),
        "suites": {outcome.suite.name: _suite(outcome, outcomes) for outcome in outcomes},
        "averages": {arm: _averages(averaged, arm) for arm in arms},
        "tests": {one: {other: _pooled(averaged, one, other) for other in rest} for one, rest in _pairs(arms).items()},
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
        arm: {
            metric: _counted(outcome.share(arm, metric), judged)
            for metric in marks
            if (judged := outcome.judged(arm, metric))
        }
        for arm, marks in outcome.marks.items()
    }
    compared = {arm: [value for value in fared if value is not None] for arm, fared in outcome.wins.items()}
    for arm, read in outcome.starts.items():
        if not bool(torch.isfinite(read.divergence).all()):
            continue  # pushed so hard that the logits overflowed
        metrics[arm]["kl"] = _estimate(float(read.divergence.mean()), bootstrap(read.divergence.tolist()))
    for arm, fared in compared.items():
        if fared:
            metrics[arm]["win_rate"] = _estimate(sum(fared) / len(fared), bootstrap(fared))
    harmless = [o.starts for o in outcomes if o.suite.kind != "safety"]
    return {
        "kind": outcome.suite.kind,
        "metric": outcome.suite.metric,
        "n": len(outcome),
        "left_out": outcome.suite.left_out,
        "prompts": outcome.suite.prompts.digest,
        "metrics": metrics,
        "unjudged": {arm: len(outcome) - outcome.judged(arm, "refusal") for arm in outcome.marks},
        "uncompared": {arm: len(outcome) - len(fared) for arm, fared in compared.items()},
        "p_values": {arm: _tests(outcome, VANILLA, arm) for arm in outcome.marks if arm != VANILLA},
        "p_values_between": {
            one: {other: _tests(outcome, one, other) for other in rest}
            for one, rest in _pairs([arm for arm in outcome.marks if arm != VANILLA]).items()
        },
        "gates": {
            arm: {
                "opened": _counted(float((read.opened > 0).double().mean()), len(read.opened)),
                "auc": _area(torch.cat([starts[arm].score for starts in harmless]), read.score)
                if outcome.suite.kind == "safety" and harmless
                else None,
            }
            for arm, read in outcome.starts.items()
        },
    }


def _estimate(value: float, interval: tuple[float, float]) -> dict[str, float]:
    low, high = interval
    return {"value": value, "low": low, "high": high}


def _counted(share: float, n: int) -> dict[str, float]:
    return _estimate(share, wilson(share, n))


def _area(harmless: Tensor, malicious: Tensor) -> dict[str, float]:
    return _estimate(area_under_roc(harmless, malicious), area_interval(harmless.tolist(), malicious.tolist()))


def _pairs(arms: Sequence[str]) -> dict[str, Sequence[str]]:
    """Each arm and those after it: every pair once."""
    return {arm: arms[place:] for place, arm in enumerate(arms, start=1) if arms[place:]}


def _tests(outcome: Outcome, one: str, other: str) -> dict[str, float]:
    """A paired test of each metric that both arms were judged by."""
    first, second = outcome.marks[one], outcome.marks[other]
    return {name: _paired(first[name], second[name]) for name in second if _is_tested(name, one)}


def _is_tested(metric: str, one: str) -> bool:
    """How alike an arm is to vanilla needs no test with that one."""
    return not (metric == "identical" and one == VANILLA)


def _paired(one: Sequence[bool | None], other: Sequence[bool | None]) -> float:
    """McNemar's test on the prompts of which both replies were judged."""
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return mcnemar([a for a, _ in both], [b for _, b in both])


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


def _averages(averaged: Mapping[str, Sequence[Outcome]], arm: str) -> dict[str, float | None]:
    """Means over suites: refusals of safety suites, right answers of utility suites, unchanged harmless replies."""
    shares = {average: [o.share(arm, AVERAGES[average][0]) for o in over] for average, over in averaged.items()}
    return {average: sum(of) / len(of) if of else None for average, of in shares.items()}


def _pooled(averaged: Mapping[str, Sequence[Outcome]], one: str, other: str) -> dict[str, float]:
    """A paired test of each average, on all prompts that it is over."""
    found = {}
    for average, over in averaged.items():
        metric = AVERAGES[average][0]
        if over and _is_tested(metric, one):
            found[average] = _paired(*([mark for o in over for mark in o.marks[arm][metric]] for arm in (one, other)))
    return found


def headings(arms: Sequence[str]) -> tuple[str, ...]:
    """The table's columns: the main metric of every arm, and how much of the steered arms' replies is unchanged."""
    return ("suite", "n", "metric", *arms, *(f"identical, {arm}" for arm in arms if arm != VANILLA))


def table_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row a suite, and the averages; as text."""
    arms = found["arms"]
    steered = [arm for arm in arms if arm != VANILLA]
    rows = []
    for name, suite in found["suites"].items():
        metrics = suite["metrics"]
        main = {"maths": "accuracy", "choice": "accuracy"}.get(suite["metric"], "refusal")
        rows.append(
            (
                name,
                str(suite["n"]),
                {"refusal": "refused", "accuracy": "right"}[main],
                *(_share(suite, arm, main) for arm in arms),
                *(f"{metrics[arm]['identical']['value']:.1%}" for arm in steered),
            )
        )
        if any("win_rate" in metrics[arm] for arm in steered):
            rates = (_share(suite, arm, "win_rate") for arm in arms)
            rows.append((name, str(suite["n"]), "preferred", *rates, *("" for _ in steered)))
    words = {
        "dsr": "safety: refused",
        "over_refusal": "over-refusal: refused",
        "utility": "utility: right",
        "identical": "harmless: identical",
    }
    for key, word in words.items():
        values = [found["averages"][arm][key] for arm in arms]
        if None not in values:
            rows.append(("average", "", word, *(f"{value:.1%}" for value in values), *("" for _ in steered)))
    return rows


def _share(suite: Mapping[str, Any], arm: str, metric: str) -> str:
    entry = suite["metrics"][arm].get(metric)
    if entry is None:
        return "–"
    missing = suite[MISSING[metric]].get(arm, 0) if metric in MISSING else 0
    judged = f" of {suite['n'] - missing}" if missing else ""
    return f"{entry['value']:.1%} ({entry['low']:.0%}-{entry['high']:.0%}){judged}"


def markdown_table(found: Mapping[str, Any]) -> str:
    """The same as a Markdown table."""
    columns = headings(found["arms"])
    rows = [columns, tuple("---" for _ in columns), *table_rows(found)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
