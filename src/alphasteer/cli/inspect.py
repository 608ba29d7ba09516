"""``alphasteer inspect``: what an artefact is and what was measured when it was fitted."""

import json
from pathlib import Path
from typing import Any

from alphasteer.cli.options import AsJson, Folder

SHOWN = 12


def command(folder: Folder, as_json: AsJson = False) -> None:
    """Show what an artefact does: model, gate, pushed layers, gate quality by layer, calibration, trials."""
    from rich.console import Console
    from rich.table import Table

    from alphasteer.steering import Steering

    steering = Steering.from_pretrained(folder)
    record = steering.record
    pushes = [
        {
            "gate_layers": list(push.gate.layers),
            "threshold": push.gate.threshold,
            "ceiling": push.gate.ceiling,
            "layers": sorted(push.directions),
            "strength": push.strength,
        }
        for push in steering.pushes
    ]
    if as_json:
        fitted = steering.fitted_on.model_dump() if steering.fitted_on else None
        whole = {
            "fitted_on": fitted,
            "positions": steering.positions,
            "reads_prompt_end": steering.reads_prompt_end,
            "pushes": pushes,
            "record": dict(record),
        }
        print(json.dumps(whole))
        return
    console = Console(highlight=False, markup=False)

    def table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
        if rows:
            drawn = Table(*columns, title=title, title_justify="left")
            for row in rows:
                drawn.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row))
            console.print(drawn)

    name = steering.fitted_on.model_id if steering.fitted_on else "any model of its width"
    reads = ", reading prompts' ends too" if steering.reads_prompt_end else ""
    console.print(
        f"AlphaSteer for {name}, acting at {steering.positions.replace('_', ' ')}s{reads}; width {steering.hidden_size}"
    )
    table(
        "Pushes",
        ["gate reads layers", "threshold", "ceiling", "pushed layers", "strength"],
        [list(p.values()) for p in pushes],
    )
    calibration, selection = record.get("calibration", {}), record.get("selection", {})
    gate = record.get("gate", {})
    if "observed" in calibration:
        console.print(
            f"The gate opens on {calibration['observed']:.2%} of the {calibration['n']} benign prompts that its "
            f"threshold was set on; by {calibration['method']} it alters at most {calibration['budget']:.2%} of "
            "prompts like them in expectation."
        )
    if calibration.get("kept_for"):
        console.print(
            f"Of each of these sources it alters at most {calibration['source_budget']:.2%} in expectation: "
            f"{', '.join(calibration['kept_for'])}."
        )
    if "held_out_auc" in gate:
        console.print(f"As a detector of malicious prompts: AUROC {gate['held_out_auc']:.3f} on held-out prompts.")
    if selection:
        since = " Its thresholds have been set anew since." if "held_for" in calibration else ""
        console.print(f"Why this push: {selection['reason']}{since}")
    gates = []
    for learned in record.get("gates", []):
        if "single_layers" not in learned:  # a record of before the first release
            console.print("What its gates were chosen by is recorded in an older form, and not shown; see --json.")
            break
        best = max(learned["single_layers"], key=lambda single: single["partial_auc"])
        malicious = ", ".join(f"{count} {Path(name).stem}" for name, count in learned["malicious"].items())
        taken = list(learned["read_out"].values()) if learned["read_out"] else ["", "", ""]
        gates.append([f"{learned['prompts']}, {learned['place']}", malicious, *best.values(), *taken])
    table(
        "Gate quality on kinds of prompts it had not seen: the best layer (all: selection.png), and what is read",
        ["prompts", "malicious", "layer", "mu", "alpha", "AUC", "partial AUC", "layers read", "AUC", "partial AUC"],
        gates,
    )
    opened = calibration.get("opened", {})
    table("Held-out prompts that open the gate", ["source", "share"], [[k, v] for k, v in opened.items()])
    trials = record.get("trials", [])[:SHOWN]
    table(
        "Pushes tried by replies to held-out prompts, the chosen one first",
        list(trials[0]) if trials else [],
        [list(t.values()) for t in trials],
    )
    searched = selection.get("searched", [])[:SHOWN]
    table(
        "Pushes searched, by surprise at the model's own refusals",
        list(searched[0]) if searched else [],
        [list(t.values()) for t in searched],
    )
    sources = [
        [side, name, s["fit"], s["held_out"]]
        for side, sets in record.get("prompts", {}).items()
        for name, s in sets.items()
    ]
    table("Prompts", ["side", "source", "fitted on", "held out"], sources)
