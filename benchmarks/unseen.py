"""How often the gate opens on harmless prompts of kinds that no source of a fit holds, by kind.

``unseen.jsonl`` holds prompts written for this alone: role plays, pasted texts with a task, tasks with inputs, everyday
questions at length, exam questions, harmless prompts in the forms of jailbreaks, and borderline ones, short and long.
Never fit or choose on them, or they measure nothing; a fit's own sources say what its budget holds for.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from alphasteer.activations import score_prompts
from alphasteer.evaluation.intervals import wilson
from alphasteer.prompts import read_prompts
from alphasteer.reporting import LogReporter
from alphasteer.steering.loading import load_steered
from benchmarks.common import table, write


def main(
    artefact: Annotated[str, typer.Argument(help="An artefact's folder.")],
    model: Annotated[str | None, typer.Option(help="The model, if it is elsewhere now.")] = None,
) -> None:
    steering, loaded, tokenizer = load_steered(artefact, model, "cpu", "auto")
    prompts = read_prompts(str(Path(__file__).parent / "unseen.jsonl")).prompts
    gates = score_prompts(loaded, tokenizer, steering, prompts, LogReporter())
    opened: dict[str, list[bool]] = {}
    for number, prompt in enumerate(prompts):
        opened.setdefault(prompt.category, []).append(any(float(gate.opened[number]) > 0 for gate in gates))
    opened["all"] = [opens for of_kind in opened.values() for opens in of_kind]
    rows: list[list[Any]] = []
    for kind, found in opened.items():
        share = sum(found) / len(found)
        rows.append([kind, len(found), share, *wilson(share, len(found))])
    columns = ["prompts", "n", "gate open", "low", "high"]
    write("unseen", {"artefact": artefact, "rows": [dict(zip(columns, row, strict=True)) for row in rows]})
    table("How often the gate opens on harmless prompts of unseen kinds", columns, rows)


if __name__ == "__main__":
    typer.run(main)
