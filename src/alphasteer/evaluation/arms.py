"""Arms: what is compared on the same prompts, each a steering with a name, or none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from alphasteer.baselines import BASELINES, fit_baseline
from alphasteer.errors import EvaluationError
from alphasteer.learning.evidence import Evidence
from alphasteer.steering import Steering

VANILLA = "vanilla"
"""The arm without steering, which every other one is compared with."""
STEERED = "steered"
"""The steering that is judged."""
ALL = "all"
"""Stands for ``steered`` and every baseline."""
Arms = Mapping[str, Steering | None]
"""What is compared, by name; None steers nothing. ``vanilla`` is among them."""


def check_arms(names: Sequence[str]) -> list[str]:
    """The arms that are named, ``all`` spelt out: wrong names are told before hours are spent.

    Raises:
        EvaluationError: if there is no such arm, or two have one name.
    """
    spelt = [each for name in names for each in ((STEERED, *BASELINES) if name == ALL else (name,))]
    reserved = (VANILLA, STEERED, *BASELINES)
    for name in spelt:
        own, given, folder = name.partition("=")
        if given and (not own or own in (*reserved, ALL) or not folder or curve_of(own) != own):
            raise EvaluationError(
                f"{name!r} names no arm of yours; write NAME=DIR with a name that is not taken and holds no ' x'."
            )
        if not given and name not in reserved:
            raise EvaluationError(
                f"There is no arm {name!r}; choose of {', '.join((VANILLA, STEERED, *BASELINES))}, "
                "or write NAME=DIR for a steering of your own."
            )
    short = [name.partition("=")[0] for name in spelt]
    doubled = next((name for name in short if short.count(name) > 1), None)
    if doubled is not None:
        raise EvaluationError(f"Two arms are called {doubled!r}; name each once.")
    return spelt


def read_arms(
    names: Sequence[str],
    steering: Steering,
    evidence: Callable[[], Evidence],
    folder: Path,
    factors: Sequence[float] = (),
    check: Callable[[Steering, str], None] = lambda steering, source: None,
) -> dict[str, Steering | None]:
    """The arms that are named, after ``vanilla``, which is always there.

    Args:
        names: ``steered``, names of baselines, or ``NAME=DIR`` for another artefact.
        steering: what ``steered`` stands for.
        evidence: what baselines are fitted on; called only where one has to be.
        folder: where fitted baselines are kept, an artefact each; one of the same steering is not fitted again.
        factors: on the fitted strengths: every steered arm once for each. As it was fitted if empty.
        check: raises if another artefact does not belong to the model (see ``check_belongs``).

    Raises:
        EvaluationError: if there is no such arm.
    """
    names = check_arms(names)
    others = {name: Steering.from_pretrained(name.partition("=")[2]) for name in names if "=" in name}
    for name, other in others.items():  # before anything is fitted
        check(other, name)
    shared: list[Evidence] = []
    arms: dict[str, Steering | None] = {VANILLA: None}
    for name in names:
        if name in others:
            arms[name.partition("=")[0]] = others[name]
        elif name == STEERED:
            arms[name] = steering
        elif name != VANILLA:
            baseline = _kept(folder / name, steering)
            if baseline is None:
                shared = shared or [evidence()]
                fitted = fit_baseline(name, shared[0])
                baseline = replace(fitted, record={**fitted.record, "beside": steering.digest})
                baseline.save_pretrained(folder / name)
            arms[name] = baseline
    return _swept(arms, factors) if factors else arms


def curve_of(arm: str) -> str:
    """The arm's name without the factor that a sweep gave it: arms of one curve share it."""
    return arm.partition(" x")[0]


def factor_of(arm: str) -> float:
    """The factor that a sweep gave the arm."""
    return float(arm.partition(" x")[2] or 1)


def _swept(arms: Arms, factors: Sequence[float]) -> dict[str, Steering | None]:
    swept: dict[str, Steering | None] = {VANILLA: None}
    for name, steering in arms.items():
        if steering is not None:
            swept |= {f"{name} x{factor:g}": steering.scaled(factor) for factor in factors}
    return swept


def _kept(folder: Path, steering: Steering) -> Steering | None:
    if not (folder / "steering.json").exists():
        return None
    kept = Steering.from_pretrained(folder)
    return kept if kept.record.get("beside") == steering.digest else None
