"""``alphasteer eval``: what a steering refuses and what it costs, on any suites."""

import json
from pathlib import Path
from typing import Annotated

import typer

from alphasteer.cli.console import ConsoleReporter
from alphasteer.cli.options import AsJson, Device, Dtype, Folder, Model, Quiet, load_steered, output_folder


def command(
    folder: Folder,
    suite: Annotated[
        list[str] | None,
        typer.Option(help="NAME of a built-in suite, NAME=SPEC with its prompts from elsewhere, or a YAML file."),
    ] = None,
    sweep: Annotated[
        str | None, typer.Option(help="Factors on the fitted strength, such as 0.25,0.5,1: an arm each.")
    ] = None,
    judge: Annotated[
        str, typer.Option(help="Says what is a refusal: phrases, package.module:Name or file.py:Name.")
    ] = "phrases",
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
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare the steered model with the unsteered one; on the starter prompts' test split if no suite is named.

    Prints a Markdown table and writes results.json and report.html. Interrupted and run again, it goes on where it
    stopped.
    """
    from dataclasses import replace

    from alphasteer.evaluation import (
        STARTER_SUITES,
        VANILLA,
        Arms,
        evaluate,
        markdown_table,
        read_starts,
        read_suites,
        results,
    )
    from alphasteer.evaluation.report import render_report
    from alphasteer.resuming import Shelf, alone_in, write_whole

    suites = [each for name in suite or STARTER_SUITES for each in read_suites(name)]
    suites = [replace(each, prompts=each.prompts.first_or_drawn(limit, seed)) for each in suites]
    factors = _factors(sweep)
    reporter = ConsoleReporter(quiet)
    with alone_in(output_folder(output)) as work:
        steering, loaded, tokenizer = load_steered(folder, model, device, dtype)
        arms: Arms = {VANILLA: None, **{name: steering.scaled(factor) for name, factor in factors.items()}}
        outcomes = evaluate(
            loaded, tokenizer, suites, arms, reporter, shelf=Shelf(work), max_new_tokens=max_new_tokens, judge=judge
        )
        starts = read_starts(loaded, tokenizer, suites, arms, reporter, shelf=Shelf(work))
        found = results(outcomes, starts, model=str(loaded.config._name_or_path), steering=steering.digest)
        write_whole(output / "results.json", (json.dumps(found, indent=2) + "\n").encode())
        page = render_report(found, outcomes, starts, arms, full_replies=full_replies)
        write_whole(output / "report.html", page.encode())
    print(json.dumps(found) if as_json else markdown_table(found))
    reporter.say(f"Wrote {output}: results.json and report.html.")


def _factors(sweep: str | None) -> dict[str, float]:
    """The steered arms' factors by name."""
    if sweep is None:
        return {"steered": 1.0}
    try:
        return {f"steered x{float(text):g}": float(text) for text in sweep.split(",")}
    except ValueError as error:
        raise typer.BadParameter(f"{sweep!r} is no list of numbers, such as 0.5,1.", param_hint="--sweep") from error
