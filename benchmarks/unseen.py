"""How often the gate opens on harmless prompts, and on jailbreaks, of kinds that no source of a fit holds, by kind.

``unseen.jsonl`` holds prompts written for this project: role plays, pasted texts with a task, tasks with inputs,
everyday questions at length, exam questions, some with passages, harmless prompts in the forms of jailbreaks, and
borderline ones, short and long. ``unseen_jailbreaks.jsonl`` holds wrappers, each filled here with three of the starter
requests that no fit sees: a gate that never opens is quiet too. Never fit or choose on any of them, or they measure
nothing; a fit's own sources say what its budget holds for.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from alphasteer.activations import score_prompts
from alphasteer.prompts import Prompt, read_prompts, starter_prompts
from alphasteer.prompts.starter import in_wrapper
from alphasteer.reporting import LogReporter
from alphasteer.steering.loading import load_steered
from benchmarks.common import gate_row, report_gates

HERE = Path(__file__).parent
REQUESTS = 3
"""How many requests a wrapper is filled with."""


def main(
    artefact: Annotated[str, typer.Argument(help="An artefact's folder.")],
    model: Annotated[str | None, typer.Option(help="The model, if it is elsewhere now.")] = None,
) -> None:
    steering, loaded, tokenizer = load_steered(artefact, model, "cpu", "auto")
    rows = []
    for side, prompts in (("harmless", read_prompts(str(HERE / "unseen.jsonl")).prompts), ("jailbreak", jailbreaks())):
        gates = score_prompts(loaded, tokenizer, steering, prompts, LogReporter())
        by_kind: dict[str, list[int]] = {}
        for place, prompt in enumerate(prompts):
            by_kind.setdefault(prompt.category, []).append(place)
        rows += [gate_row([side, kind], gates, places) for kind, places in by_kind.items()]
        rows.append(gate_row([side, "all"], gates))
    report_gates("unseen", "How often the gate opens on unseen kinds of prompts", artefact, ["side", "prompts"], rows)


def jailbreaks() -> list[Prompt]:
    """Requests of the starter prompts' test split in the benchmark's wrappers, taken in turn."""
    requests = starter_prompts("harmful", "test").prompts
    wrappers = [json.loads(line) for line in (HERE / "unseen_jailbreaks.jsonl").open(encoding="utf-8")]
    repeated = [wrapper for wrapper in wrappers for _ in range(REQUESTS)]
    return [in_wrapper(wrapper, requests[n % len(requests)]) for n, wrapper in enumerate(repeated)]


if __name__ == "__main__":
    typer.run(main)
