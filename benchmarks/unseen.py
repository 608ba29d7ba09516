"""How often the gate opens on harmless prompts of kinds that no source of a fit holds, by kind.

``unseen.jsonl`` holds prompts written for this project: role plays, pasted texts with a task, tasks with inputs,
everyday questions at length, exam questions, some with passages, harmless prompts in the forms of jailbreaks, and
borderline ones, short and long. Never fit or choose on them, or they measure nothing; a fit's own sources say what its
budget holds for.
"""

from pathlib import Path
from typing import Annotated

import typer

from alphasteer.activations import score_prompts
from alphasteer.prompts import read_prompts
from alphasteer.reporting import LogReporter
from alphasteer.steering.loading import load_steered
from benchmarks.common import gate_row, report_gates


def main(
    artefact: Annotated[str, typer.Argument(help="An artefact's folder.")],
    model: Annotated[str | None, typer.Option(help="The model, if it is elsewhere now.")] = None,
) -> None:
    steering, loaded, tokenizer = load_steered(artefact, model, "cpu", "auto")
    prompts = read_prompts(str(Path(__file__).parent / "unseen.jsonl")).prompts
    gates = score_prompts(loaded, tokenizer, steering, prompts, LogReporter())
    by_kind: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        by_kind.setdefault(prompt.category, []).append(place)
    rows = [gate_row([kind], gates, places) for kind, places in by_kind.items()]
    title = "How often the gate opens on harmless prompts of unseen kinds"
    report_gates("unseen", title, artefact, ["prompts"], [*rows, gate_row(["all"], gates)])


if __name__ == "__main__":
    typer.run(main)
