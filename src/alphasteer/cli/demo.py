"""``alphasteer demo``: a real chat model becomes hard to misuse, in one command and within minutes."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphasteer.cli.console import ConsoleReporter
from alphasteer.cli.options import AsJson, Quiet, output_folder

if TYPE_CHECKING:
    from alphasteer.evaluation import Outcome

KINDS = ("harmful", "jailbreak", "borderline", "benign")
REPLY_TOKENS = 32
SHOWN = 3


def command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where results, figures and the artefact go.")] = Path(
        "runs/demo"
    ),
    full_replies: Annotated[
        bool, typer.Option(help="Do not cut replies that comply with harmful prompts short.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit a steering for SmolLM2-135M on the starter prompts and show what it does to unseen ones.

    Interrupted and run again, it goes on where it stopped.
    """
    from alphasteer.evaluation import STARTER_SUITES, VANILLA, evaluate, read_suites, results
    from alphasteer.evaluation.pictures import draw_figures
    from alphasteer.learning import FitSettings, fit
    from alphasteer.models import load_model
    from alphasteer.models.demo_model import demo_model
    from alphasteer.prompts import starter_prompts
    from alphasteer.resuming import Shelf, alone_in, write_whole

    started = time.monotonic()
    reporter = ConsoleReporter(quiet)
    # A demo is to end within minutes: no chats, no search, and refinement in one window.
    settings = FitSettings(contexts=False, benign_budget=0.02, trials=0, windows=0, replies=120)
    suites = [suite for name in STARTER_SUITES for suite in read_suites(name)]
    fitted = {kind: starter_prompts(kind, "fit") for kind in KINDS}
    with alone_in(output_folder(output)) as work:
        source = demo_model(reporter)
        reporter.say(f"Loading {source}")
        model, tokenizer = load_model(source, device="cpu")
        steering = fit(model, tokenizer, settings=settings, report=reporter, work=work)
        steering.save_pretrained(output / "steering")
        arms = {VANILLA: None, "steered": steering}
        outcomes = evaluate(model, tokenizer, suites, arms, reporter, shelf=Shelf(work), max_new_tokens=REPLY_TOKENS)
        draw_figures(
            model,
            tokenizer,
            steering,
            {kind: fitted[kind] for kind in ("benign", "borderline")},
            {kind: fitted[kind] for kind in ("harmful", "jailbreak")},
            {kind: starter_prompts(kind, "test") for kind in KINDS},
            output,
            Shelf(work),
            reporter,
        )
    found = {
        **results(outcomes, model=source, steering=steering.digest),
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_mib": _peak_memory_mib(),
    }
    write_whole(output / "results.json", (json.dumps(found, indent=2) + "\n").encode())
    if as_json:
        print(json.dumps(found))
    else:
        _show(found, outcomes, output, full_replies)


def _peak_memory_mib() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, but bytes on macOS
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def _show(found: dict[str, Any], outcomes: Sequence["Outcome"], output: Path, full_replies: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from alphasteer.evaluation import headings, table_rows

    console = Console(highlight=False, markup=False)
    replies = Table(
        "request", "unsteered", "steered", title="Replies to unseen prompts", title_justify="left", show_lines=True
    )
    for outcome in outcomes:
        for index in _instructive(outcome):
            shown = [outcome.suite.prompts.prompts[index].text]
            shown += [outcome.shown(arm, index, full_replies) for arm in outcome.replies]
            replies.add_row(*map(_plain, shown))
    console.print(replies)
    table = Table(*headings(found["arms"]), title="Held-out test prompts", title_justify="left")
    for row in table_rows(found):
        table.add_row(*row)
    console.print(table)
    memory = f", {peak} MiB of memory at most" if (peak := found["peak_memory_mib"]) else ""
    console.print(f"{found['seconds']:.0f} seconds{memory}.")
    console.print(f"Wrote {output}: results.json, gate.png, activations.png and the artefact in {output / 'steering'}.")
    console.print(f"Try it: alphasteer chat {output / 'steering'}")


def _instructive(outcome: "Outcome") -> list[int]:
    """The prompts to show: what changed first where change is wanted, else as they come."""
    order = list(range(len(outcome)))
    if outcome.suite.kind == "over-refusal":
        return []
    if outcome.suite.kind == "safety":
        vanilla, steered = (outcome.marks[arm]["refusal"] for arm in ("vanilla", "steered"))
        order.sort(key=lambda index: vanilla[index] or not steered[index])
    return order[:SHOWN]


def _plain(text: str) -> str:
    return " ".join(text.split())[:240]
