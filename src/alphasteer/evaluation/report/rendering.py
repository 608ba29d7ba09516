"""Putting the page together: markup, style, script and data in one file."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphasteer.evaluation.arms import VANILLA, Arms, curve_of, factor_of
from alphasteer.evaluation.outcomes import Outcome

DOTS = 60
"""Prompts of a suite in the picture of the activations."""


def render_report(
    found: Mapping[str, Any],
    outcomes: Sequence[Outcome],
    arms: Arms,
    *,
    full_replies: bool = False,
) -> str:
    """The report's HTML.

    Args:
        found: the numbers, as ``results`` gives them.
        outcomes: the replies, and what was read where they start.
        arms: what was compared; a steered arm's first gate gives threshold and ceiling.
        full_replies: do not cut replies that comply with malicious requests short.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    def part(name: str) -> str:
        return files(__package__).joinpath(name).read_text(encoding="utf-8")

    data = {
        "results": found,
        "gates": _gates(outcomes, arms),
        "curves": _curves(arms),
        "shifts": _shifts(outcomes),
        "places": places(outcomes),
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
        settings={
            **found["settings"],
            **{f"{who}_cost": f"{n:,} tokens" for who, n in found["judge_tokens"].items() if n},
        },
        cut=not full_replies,
        dots=DOTS,
        style=Markup(part("style.css")),
        script=Markup(part("page.js")),
        # A reply may hold "</script>" or "<!--": without its "<" it cannot end the element it stands in.
        data=Markup(json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")),
    )


def _gates(outcomes: Sequence[Outcome], arms: Arms) -> dict[str, dict[str, Any]]:
    gates = {}
    for arm, steering in arms.items():
        if steering is not None:
            gate = steering.pushes[0].gate
            scores = {
                o.suite.name: [round(v, 4) for v in o.starts[arm].score.nan_to_num().tolist()]
                for o in outcomes
                if arm in o.starts
            }
            gates[arm] = {"threshold": gate.threshold, "ceiling": gate.ceiling, "scores": scores}
    return gates


def _curves(arms: Arms) -> dict[str, list[str]]:
    """By what was swept, its arms in order of their factors, from the unsteered model on."""
    curves: dict[str, list[str]] = {}
    for arm in arms:
        if arm != VANILLA:
            curves.setdefault(curve_of(arm), []).append(arm)
    return {name: [VANILLA, *sorted(points, key=factor_of)] for name, points in curves.items() if len(points) > 1}


def _shifts(outcomes: Sequence[Outcome]) -> dict[str, dict[str, list[float]]]:
    """By arm and suite, each layer's mean shift."""
    shifts: dict[str, dict[str, list[float]]] = {}
    for outcome in outcomes:
        for arm, read in outcome.starts.items():
            shifts.setdefault(arm, {})[outcome.suite.name] = [
                round(value, 4) for value in read.shift.mean(0).nan_to_num().tolist()
            ]
    return shifts


def places(outcomes: Sequence[Outcome]) -> dict[str, dict[str, dict[str, list[list[float]]]]]:
    """Where reply starts lie on the plane of most variance, by arm and suite, before and after steering.

    The plane is that of the unsteered streams at the last layer, each suite's first ``DOTS`` prompts.
    """
    before = [next(iter(o.starts.values())).before[:DOTS] for o in outcomes if o.starts]
    if sum(map(len, before)) < 3:
        return {}
    whole = torch.cat(before)
    mean = whole.mean(0)
    plane = torch.linalg.svd(whole - mean, full_matrices=False).Vh[:2].T

    def dots(streams: Tensor) -> list[list[float]]:
        on_plane = (streams[:DOTS] - mean) @ plane
        return [[round(value, 3) for value in row] for row in on_plane[on_plane.isfinite().all(1)].tolist()]

    found: dict[str, dict[str, dict[str, list[list[float]]]]] = {}
    for outcome in outcomes:
        for arm, read in outcome.starts.items():
            found.setdefault(arm, {})[outcome.suite.name] = {"before": dots(read.before), "after": dots(read.after)}
    return found


def _rows(outcome: Outcome, full_replies: bool) -> list[dict[str, Any]]:
    def reply(arm: str, index: int) -> dict[str, Any]:
        marks = {metric: values[index] for metric, values in outcome.marks[arm].items()}
        return {"text": outcome.shown(arm, index, full_replies), **marks}

    return [
        {"id": prompt.id, "prompt": prompt.text, "arms": {arm: reply(arm, index) for arm in outcome.replies}}
        for index, prompt in enumerate(outcome.suite.prompts)
    ]
