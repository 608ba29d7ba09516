"""``alphasteer fit``: learn a steering for a model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from alphasteer.cli.console import ConsoleReporter
from alphasteer.cli.options import SPEC, AsJson, Device, Dtype, Quiet, output_folder

Specs = list[str] | None
_PROMPTS = ("benign", "harmful", "benign_validation", "harmful_validation")
_SPEC = f"{SPEC}; may be repeated."


def command(
    model: Annotated[str | None, typer.Argument(help="A Hub id, a folder or a .gguf file.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The artefact's folder.")] = Path("steering"),
    benign: Annotated[Specs, typer.Option(help=f"What must stay as it is: {_SPEC}")] = None,
    harmful: Annotated[Specs, typer.Option(help=f"What must be refused: {_SPEC}")] = None,
    benign_validation: Annotated[Specs, typer.Option(help=f"Held out whole, to calibrate on: {_SPEC}")] = None,
    harmful_validation: Annotated[Specs, typer.Option(help=f"Held out whole, to choose on: {_SPEC}")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with model, prompts and settings; flags win.")] = None,
    preset: Annotated[str | None, typer.Option(help="default, or paper: a gate a layer, as published.")] = None,
    layers: Annotated[str | None, typer.Option(help="Pushed layers, such as 12-20; chosen if not given.")] = None,
    gate_layer: Annotated[int | None, typer.Option(help="The gate's layer; chosen if not given.")] = None,
    strength: Annotated[float | None, typer.Option(help="Factor on the direction; chosen if not given.")] = None,
    directions: Annotated[str | None, typer.Option(help="refined (by gradient), or contrast: as measured.")] = None,
    benign_budget: Annotated[
        float | None, typer.Option(help="Share of benign prompts that may be altered (0.01).")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Ways to push that the search tries (48); 0: no search.")] = None,
    minutes: Annotated[float | None, typer.Option(help="The search begins no try after so long.")] = None,
    starter: Annotated[
        bool | None, typer.Option(help="The starter prompts join the given ones (they do by default).")
    ] = None,
    contexts: Annotated[
        bool | None, typer.Option(help="Gates are learned from prompts in chats too (they are by default).")
    ] = None,
    prompt_end: Annotated[
        bool | None, typer.Option(help="The gate reads the prompt's last tokens too (it does by default).")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most this many prompts of each source.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws the samples (0).")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Learn a steering for MODEL from benign and harmful prompts, the starter prompts among them.

    Interrupted and run again, it goes on where it stopped.
    """
    from alphasteer.errors import LearningError
    from alphasteer.evaluation.figures import selection_figure
    from alphasteer.learning import fit, fit_settings, read_config
    from alphasteer.models import load_model
    from alphasteer.resuming import alone_in

    flags = {
        "model": model,
        "benign": benign,
        "harmful": harmful,
        "benign_validation": benign_validation,
        "harmful_validation": harmful_validation,
        "preset": preset,
        "layers": layers,
        "gate_layer": gate_layer,
        "strength": strength,
        "directions": directions,
        "benign_budget": benign_budget,
        "trials": trials,
        "minutes": minutes,
        "starter": starter,
        "contexts": contexts,
        "prompt_end": prompt_end,
        "limit": limit,
        "seed": seed,
    }
    given: dict[str, Any] = {**read_config(config), **{k: v for k, v in flags.items() if v is not None}}
    source = given.pop("model", None)
    if source is None:
        raise typer.BadParameter("name the model to steer, here or in the config.", param_hint="MODEL")
    prompts = {name: given.pop(name) for name in _PROMPTS if name in given}
    for name, specs in prompts.items():
        if not isinstance(specs, list):
            raise LearningError(f"{name!r} in the config is no list of prompt sources; write one a line.")
    settings = fit_settings(given)
    reporter = ConsoleReporter(quiet)
    with alone_in(output_folder(output)) as work:
        reporter.say(f"Loading {source}")
        loaded, tokenizer = load_model(source, device, dtype)
        steering = fit(loaded, tokenizer, settings=settings, report=reporter, work=work, **prompts)
        steering.save_pretrained(output)
        selection_figure(output / "selection.png", steering.record)
    reporter.say(f"Wrote {output}; try: alphasteer chat {output}")
    if as_json:
        import json

        print(json.dumps({"output": str(output), **steering.record}))
