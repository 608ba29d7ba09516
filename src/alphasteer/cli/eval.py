"""``alphasteer eval``: what a steering refuses and what it costs, on any suites."""

import json
import math
import os
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from alphasteer.cli.console import ConsoleReporter
from alphasteer.cli.options import AsJson, Device, Dtype, Folder, Model, Quiet, output_folder


class Form(StrEnum):
    """What is printed."""

    md = "md"
    json = "json"


def command(
    folder: Folder,
    suite: Annotated[
        list[str] | None,
        typer.Option(help="NAME of a built-in suite, NAME=SPEC with its prompts from elsewhere, or a YAML file."),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="What to compare with the unsteered model: steered (the default), a published baseline "
            "(refusal_vector, cast, surgical, jailbreak_antidote, alphasteer_paper), NAME=DIR, or all."
        ),
    ] = None,
    sweep: Annotated[
        str | None, typer.Option(help="Factors on the fitted strengths, such as 0.25,0.5,1: every arm at each.")
    ] = None,
    judge: Annotated[
        str, typer.Option(help="Says what is a refusal: phrases, hf:CLASSIFIER, package.module:Name or file.py:Name.")
    ] = "phrases",
    preference_judge: Annotated[
        str | None, typer.Option(help="Says which of two replies is better, for win rates: package.module:Name.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many prompts of each suite, the first.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Draw the limited prompts instead.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Length of a reply at most; by default what each suite needs.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where results and replies go.")] = Path("runs/eval"),
    full_replies: Annotated[
        bool, typer.Option(help="Do not cut replies that comply with malicious requests short in the report.")
    ] = False,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    form: Annotated[Form, typer.Option("--format", help="What is printed: a Markdown table, or JSON.")] = Form.md,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare the steered model with the unsteered one; on the starter prompts' test split if no suite is named.

    Prints a Markdown table and writes results.json and report.html. Interrupted and run again, it goes on where it
    stopped.
    """
    from dataclasses import replace

    from alphasteer.baselines import BASELINES
    from alphasteer.evaluation import (
        STARTER_SUITES,
        STEERED,
        check_arms,
        check_evaluation,
        evaluate,
        markdown_table,
        read_arms,
        read_suites,
        results,
    )
    from alphasteer.evaluation.report import render_report
    from alphasteer.learning import recorded_evidence
    from alphasteer.resuming import Shelf, alone_in, write_whole
    from alphasteer.steering import load_steered
    from alphasteer.steering.loading import check_belongs

    suites = [each for name in suite or STARTER_SUITES for each in read_suites(name)]
    suites = [replace(each, prompts=each.prompts.first_or_drawn(limit, seed)) for each in suites]
    names = check_arms(arm or [STEERED])
    factors = _factors(sweep)
    check_evaluation(suites, judge, preference_judge)
    reporter = ConsoleReporter(quiet)
    for each in suites:
        if each.left_out:
            reporter.say(
                f"{each.name}: {each.left_out} prompts are left out: duplicates, or answers that are no choice."
            )
    with alone_in(output_folder(output)) as work:
        steering, loaded, tokenizer = load_steered(folder, model, device, dtype)
        _check_results(output / "results.json", steering.digest)
        own = _fit_folder(folder, work)
        # Another run may be at work there only if neither of the two needs it.
        with alone_in(own) if own != work and set(names) & set(BASELINES) else nullcontext():
            arms = read_arms(
                names,
                steering,
                lambda: recorded_evidence(loaded, tokenizer, steering, reporter, Shelf(own)),
                output / "baselines",
                factors,
                lambda other, source: check_belongs(other, loaded, tokenizer, source),
            )
        outcomes = evaluate(
            loaded,
            tokenizer,
            suites,
            arms,
            reporter,
            shelf=Shelf(work),
            max_new_tokens=max_new_tokens,
            judge=judge,
            preference_judge=preference_judge,
        )
        settings = {
            "judge": judge,
            "preference_judge": preference_judge,
            "limit": limit,
            "seed": seed,
            "max_new_tokens": max_new_tokens,
            "device": str(loaded.device),
            "dtype": str(loaded.dtype).removeprefix("torch."),
        }
        source = str(loaded.config._name_or_path)
        found = results(outcomes, model=source, steering=steering.digest, settings=settings)
        write_whole(output / "results.json", (json.dumps(found, indent=2) + "\n").encode())
        page = render_report(found, outcomes, arms, full_replies=full_replies)
        write_whole(output / "report.html", page.encode())
    print(json.dumps(found) if as_json or form is Form.json else markdown_table(found))
    reporter.say(f"Wrote {output}: results.json and report.html.")


def _check_results(former: Path, steering: str) -> None:
    """Refuse to write over what another steering reached."""
    from alphasteer.errors import EvaluationError

    if not former.is_file():
        return
    try:
        found = json.loads(former.read_text(encoding="utf-8"))["steering"]
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{former} is no results of ours; give another --output, or move it away.") from error
    if found != steering:
        raise EvaluationError(f"{former} holds what another steering reached; give another --output, or move it away.")


def _fit_folder(folder: str, work: Path) -> Path:
    """The fit's own work folder, if it is still there: it holds what baselines would read again."""
    own = Path(folder) / work.name
    return own if own.is_dir() and os.access(own, os.W_OK) else work


def _factors(sweep: str | None) -> list[float]:
    try:
        factors = [float(text) for text in sweep.split(",")] if sweep else []
    except ValueError as error:
        raise typer.BadParameter(f"{sweep!r} is no list of numbers, such as 0.5,1.", param_hint="--sweep") from error
    if not all(map(math.isfinite, factors)):
        raise typer.BadParameter(f"{sweep!r} holds a number that is not finite.", param_hint="--sweep")
    return factors
