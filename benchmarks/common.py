"""What the benchmarks share: where results go, and a table on the terminal."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from alphasteer.activations import GateScores
from alphasteer.evaluation.intervals import wilson

FOLDER = Path("runs/benchmarks")


def write(name: str, results: Mapping[str, Any]) -> None:
    """Keep the results with what they were measured on."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps({**results, "environment": machine}, indent=2) + "\n", encoding="utf-8")
    print(f"Wrote {path}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; numbers get three significant digits."""
    drawn = Table(*columns, title=title, title_justify="left")
    for row in rows:
        drawn.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(highlight=False).print(drawn)


def any_open(gates: Sequence[GateScores]) -> torch.Tensor:
    """Which prompts open any gate, of shape (n,)."""
    return torch.stack([gate.opened for gate in gates]).gt(0).any(0)


def gate_row(labels: Sequence[str], gates: Sequence[GateScores], chosen: Sequence[int] | None = None) -> list[Any]:
    """How many prompts there are, the share of them that open any gate, and its 95 % interval, after the labels.

    Args:
        chosen: the prompts' places; all of them if not given.
    """
    opened = any_open(gates)
    if chosen is not None:
        opened = opened[list(chosen)]
    share = float(opened.double().mean())
    return [*labels, len(opened), share, *wilson(share, len(opened))]


def report_gates(name: str, title: str, artefact: str, labels: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Keep and print rows of ``gate_row``."""
    columns = [*labels, "n", "gate open", "low", "high"]
    write(name, {"artefact": artefact, "rows": [dict(zip(columns, row, strict=True)) for row in rows]})
    table(title, columns, rows)


def demo_folder() -> str:
    """The demo's model, fetched once: what a benchmark runs unless told otherwise."""
    from alphasteer.models.demo_model import demo_model
    from alphasteer.reporting import LogReporter

    return str(demo_model(LogReporter()))
