"""Outcomes as the numbers that are written down and printed."""

from collections.abc import Mapping
from typing import Any

from alphasteer.evaluation.comparing import Outcome
from alphasteer.evaluation.intervals import wilson

ARMS = ("vanilla", "steered")
METRICS = ("refusal", "identical", "coherent")


def suite_results(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """By suite: ``{"n", "metrics": {arm: {metric: {"value", "low", "high"}}}}`` with 95 % Wilson intervals."""

    def metric(outcome: Outcome, arm: str, name: str) -> dict[str, float]:
        value: float = getattr(outcome, name)(arm)
        low, high = wilson(value, len(outcome))
        return {"value": value, "low": low, "high": high}

    return {
        suite: {
            "n": len(outcome),
            "metrics": {arm: {name: metric(outcome, arm, name) for name in METRICS} for arm in ARMS},
        }
        for suite, outcome in outcomes.items()
    }


def table_rows(suites: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Suite, n, refusals vanilla and steered with the interval, identical, coherent: as text for a table."""

    def share(entry: Mapping[str, float], interval: bool = False) -> str:
        text = f"{entry['value']:.1%}"
        return f"{text} ({entry['low']:.0%}-{entry['high']:.0%})" if interval else text

    return [
        (
            name,
            str(suite["n"]),
            share(suite["metrics"]["vanilla"]["refusal"]),
            share(suite["metrics"]["steered"]["refusal"], interval=True),
            share(suite["metrics"]["steered"]["identical"]),
            share(suite["metrics"]["steered"]["coherent"]),
        )
        for name, suite in suites.items()
    ]


HEADINGS = ("suite", "n", "refused, vanilla", "refused, steered (95 %)", "replies identical", "steered coherent")


def markdown_table(suites: Mapping[str, Any]) -> str:
    """The same as a Markdown table."""
    rows = [HEADINGS, tuple("---" for _ in HEADINGS), *table_rows(suites)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
