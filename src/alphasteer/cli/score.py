"""``alphasteer score``: the gate as a detector of malicious prompts, without any reply."""

import json
from typing import Annotated

import typer

from alphasteer.cli.console import ConsoleReporter
from alphasteer.cli.options import SPEC, AsJson, Device, Dtype, Folder, Model, Quiet


def command(
    folder: Folder,
    prompts: Annotated[str, typer.Option(help=f"The prompts: {SPEC}.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.")] = None,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Print what the gate reads from each prompt, and whether the reply would be steered; highest score first."""
    from alphasteer.activations import score_prompts
    from alphasteer.prompts import read_prompts
    from alphasteer.steering import load_steered

    reporter = ConsoleReporter(quiet)
    chosen = read_prompts(prompts).first_or_drawn(limit)
    steering, loaded, tokenizer = load_steered(folder, model, device, dtype)
    gates = score_prompts(loaded, tokenizer, steering, chosen.prompts, reporter)
    # Of several gates, the one that opens furthest speaks for the prompt.
    rows = []
    for index, prompt in enumerate(chosen):
        furthest = max(gates, key=lambda gate: float(gate.opened[index].abs()))
        rows.append((prompt, float(furthest.score[index]), furthest.layer, float(furthest.opened[index])))
    rows.sort(key=lambda row: -row[1])
    for prompt, score, layer, opened in rows:
        if as_json:
            row = {"id": prompt.id, "score": score, "layer": layer, "opened": opened, "prompt": prompt.text}
            print(json.dumps(row, ensure_ascii=False))
        else:
            print(
                f"{score:8.3f}  {layer:3d}  {'steered' if opened else '       '}  {' '.join(prompt.text.split())[:90]}"
            )
    steered = sum(opened != 0 for *_, opened in rows)
    last = max(gate.layer for gate in gates)
    reporter.say(f"{steered} of {len(rows)} prompts would be steered, by what gates read up to layer {last}.")
