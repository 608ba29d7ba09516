"""The numbers of an evaluation as a table of text."""

from collections.abc import Mapping, Sequence
from typing import Any

from alphasteer.evaluation.arms import VANILLA

MISSING = {"refusal": "unjudged", "win_rate": "uncompared"}
"""Where a suite's results say how many replies have no verdict."""


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
                *(_percent(metrics[arm]["identical"]["value"]) for arm in steered),
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
        means = [found["average_intervals"][arm][key] for arm in arms]
        if None not in means:
            rows.append(("average", "", word, *map(_with_interval, means), *("" for _ in steered)))
    return rows


def _share(suite: Mapping[str, Any], arm: str, metric: str) -> str:
    entry = suite["metrics"][arm].get(metric)
    if entry is None:
        return "–"
    missing = suite[MISSING[metric]].get(arm, 0) if metric in MISSING else 0
    judged = f" of {suite['n'] - missing}" if missing else ""
    return _with_interval(entry) + judged


def _with_interval(entry: Mapping[str, float]) -> str:
    value, low, high = (entry[key] for key in ("value", "low", "high"))
    if low == high:  # by definition, as that the unsteered replies are unchanged
        return _percent(value)
    return f"{_percent(value)} ({_percent(low, 0)}-{_percent(high, 0)})"


def _percent(share: float, digits: int = 1) -> str:
    """Rounded as people do, a half upwards, whatever a sum of floats made of it; the report's script does the same."""
    return f"{share + 1e-9:.{digits}%}"


def markdown_table(found: Mapping[str, Any]) -> str:
    """The same as a Markdown table."""
    columns = headings(found["arms"])
    rows = [columns, tuple("---" for _ in columns), *table_rows(found)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
