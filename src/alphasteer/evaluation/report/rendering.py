"""Putting the page together: markup, style, script and data in one file."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from alphasteer.evaluation.evaluating import Arms, Outcome
from alphasteer.evaluation.starts import AllStarts


def render_report(
    found: Mapping[str, Any],
    outcomes: Sequence[Outcome],
    starts: AllStarts,
    arms: Arms,
    *,
    full_replies: bool = False,
) -> str:
    """The report's HTML.

    Args:
        found: the numbers, as ``results`` gives them.
        outcomes: the replies.
        starts: what was read at the reply starts, by suite and arm.
        arms: what was compared; a steered arm's first gate gives threshold and ceiling.
        full_replies: do not cut replies that comply with malicious requests short.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    def part(name: str) -> str:
        return files(__package__).joinpath(name).read_text(encoding="utf-8")

    data = {
        "results": found,
        "gates": _gates(outcomes, starts, arms),
        "replies": {outcome.suite.name: _rows(outcome, full_replies) for outcome in outcomes},
    }
    page = Environment(autoescape=True).from_string(part("page.html.j2"))
    return page.render(
        model=Path(found["model"]).name,
        digest=found["steering"],
        arms=found["arms"],
        suites=len(outcomes),
        prompts=sum(map(len, outcomes)),
        environment=found["environment"],
        cut=not full_replies,
        style=Markup(part("style.css")),
        script=Markup(part("page.js")),
        # A reply may hold "</script>" or "<!--": without its "<" it cannot end the element it stands in.
        data=Markup(json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")),
    )


def _gates(outcomes: Sequence[Outcome], starts: AllStarts, arms: Arms) -> dict[str, dict[str, Any]]:
    gates = {}
    for arm, steering in arms.items():
        if steering is not None and starts:
            gate = steering.pushes[0].gate
            scores = {o.suite.name: [round(v, 4) for v in starts[o.suite.name][arm].score.tolist()] for o in outcomes}
            gates[arm] = {"threshold": gate.threshold, "ceiling": gate.ceiling, "scores": scores}
    return gates


def _rows(outcome: Outcome, full_replies: bool) -> list[dict[str, Any]]:
    def reply(arm: str, index: int) -> dict[str, Any]:
        marks = {metric: values[index] for metric, values in outcome.marks[arm].items()}
        return {"text": outcome.shown(arm, index, full_replies), **marks}

    return [
        {"id": prompt.id, "prompt": prompt.text, "arms": {arm: reply(arm, index) for arm in outcome.replies}}
        for index, prompt in enumerate(outcome.suite.prompts)
    ]
