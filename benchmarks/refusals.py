"""Refusals and unchanged replies of an artefact on any prompt files: the table of the README."""

from pathlib import Path
from typing import Annotated

import typer

from alphasteer.cli.console import ConsoleReporter
from alphasteer.cli.options import load_steered
from alphasteer.evaluation import compare, markdown_table, suite_results
from alphasteer.prompts import PromptSet, read_prompts
from alphasteer.resuming import Shelf
from benchmarks.common import write


def main(
    artefact: Annotated[str, typer.Argument(help="An artefact's folder.")],
    suite: Annotated[list[str], typer.Option(help="NAME=SPEC or SPEC; may be repeated.")],
    limit: Annotated[int | None, typer.Option(help="The first so many prompts of each suite.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Length of a reply.")] = 48,
    model: Annotated[str | None, typer.Option(help="The model, if it is elsewhere now.")] = None,
    name: Annotated[str, typer.Option(help="Name of the results file.")] = "refusals",
) -> None:
    report = ConsoleReporter()
    steering, loaded, tokenizer = load_steered(artefact, model, "auto", "auto")
    suites = {}
    for each in suite:
        label, _, spec = each.rpartition("=")
        prompts = read_prompts(spec)
        suites[label or Path(spec).stem] = PromptSet(prompts.name, prompts.prompts[:limit], prompts.dropped)
    shelf = Shelf(Path("runs/benchmarks/work"))
    outcomes = compare(loaded, tokenizer, steering, suites, report, shelf=shelf, max_new_tokens=max_new_tokens)
    results = suite_results(outcomes)
    print(markdown_table(results))
    attacks = [value["metrics"] for label, value in results.items() if label.startswith("attack")]
    if attacks:
        for arm in ("vanilla", "steered"):
            average = sum(m[arm]["refusal"]["value"] for m in attacks) / len(attacks)
            print(f"average refusals of attacks, {arm}: {average:.1%}")
    write(
        name,
        {"artefact": Path(artefact).name, "settings": dict(steering.record.get("settings", {})), "suites": results},
    )


if __name__ == "__main__":
    typer.run(main)
