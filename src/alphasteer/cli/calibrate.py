"""``alphasteer calibrate``: thresholds for one's own traffic, without fitting anew."""

import json
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from alphasteer.cli.console import ConsoleReporter
from alphasteer.cli.options import SPEC, AsJson, Device, Dtype, Folder, Model, Quiet


class Groups(StrEnum):
    """For what the budget holds."""

    all = "all"
    source = "source"
    category = "category"


def command(
    folder: Folder,
    benign: Annotated[
        list[str],
        typer.Option(help=f"Prompts like yours: {SPEC}; may be repeated."),
    ],
    benign_budget: Annotated[
        float, typer.Option(min=0, max=1, help="Share of such prompts that may be altered.")
    ] = 0.01,
    groups: Annotated[
        Groups, typer.Option(help="The budget holds for all together, for every source, or for every category.")
    ] = Groups.all,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many prompts of each source.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new artefact's folder; DIR itself if not given.")
    ] = None,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Set the thresholds of an artefact so that at most the budget of prompts like these is altered."""
    import torch

    from alphasteer.activations import score_prompts, with_self_test
    from alphasteer.errors import LearningError
    from alphasteer.learning import check_enough, largest_excess, recalibrated
    from alphasteer.prompts import read_prompts
    from alphasteer.steering import load_steered

    if not 0 < benign_budget < 1:
        raise LearningError(f"The budget must lie between 0 and 1, not at {benign_budget:g}.")
    if output is None and not Path(folder).is_dir():
        raise LearningError(f"{folder} is no folder here; say with --output where the new artefact goes.")
    reporter = ConsoleReporter(quiet)
    sets = [read_prompts(spec).limit(limit) for spec in benign]
    once = {p.key: (p.category or "uncategorized" if groups is Groups.category else s.name, p) for s in sets for p in s}
    prompts = list(once.values())
    if repeated := sum(map(len, sets)) - len(prompts):
        reporter.say(f"{repeated} prompts stand in several sources and count once.")
    names = [name for name, _ in prompts]
    counts = Counter(names) if groups is not Groups.all else {"all prompts": len(names)}
    for name, count in counts.items():
        check_enough(count, benign_budget, name)
    steering, loaded, tokenizer = load_steered(folder, model, device, dtype, tested=False)
    given = {s.name for s in sets} | {s.digest for s in sets}
    for source in steering.record.get("prompts", {}).get("benign", {}).values():
        if source["fit"] and given & {source.get("spec"), source["digest"]}:
            reporter.say(
                f"{source['spec']} was fitted on, and a gate reads lower there: the promise wants new prompts."
            )
    read = score_prompts(loaded, tokenizer, steering, [prompt for _, prompt in prompts], reporter)
    excess = largest_excess([push.gate for push in steering.pushes], [gate.score for gate in read])
    by_group = {name: excess[torch.tensor([other == name for other in names])] for name in dict.fromkeys(names)}
    tested = with_self_test(loaded, tokenizer, steering)
    moved = recalibrated(tested, by_group, benign_budget, each_group=groups is not Groups.all)
    destination = output or Path(folder)
    moved.save_pretrained(destination)
    found = moved.record["calibration"]
    former = steering.pushes[0].gate.threshold
    if former is not None and found["threshold"] < former:
        reporter.say(
            f"The threshold falls below {former:.3f}, so prompts unlike these, harmless ones too, will open the gate "
            "more often; give prompts as varied as your traffic."
        )
    if as_json:
        print(json.dumps(found))
    else:
        for name, share in found["opened"].items():
            print(f"{share:7.2%} of {found['groups'][name]} altered: {name}")
    reporter.say(
        f"Wrote {destination}: threshold {former:.3f} -> {found['threshold']:.3f}; at most "
        f"{benign_budget:.2%} of prompts like {'each of these groups' if groups is not Groups.all else 'these'} will "
        f"be altered, in expectation over sets of {found['n']} such prompts."
    )
