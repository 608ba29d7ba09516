"""``alphasteer demo``: a real chat model becomes hard to misuse, in one command and within minutes."""

import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphasteer.cli.console import ConsoleReporter
from alphasteer.cli.options import AsJson, Quiet, output_folder

if TYPE_CHECKING:
    from alphasteer.evaluation import Outcome

REPLY_TOKENS = 32
SHOWN = 3
COMPLIANCE_CUT = 60


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
    from alphasteer.evaluation import compare, suite_results
    from alphasteer.evaluation.pictures import draw_figures
    from alphasteer.learning import fit
    from alphasteer.models import load_model
    from alphasteer.models.demo_model import demo_model
    from alphasteer.prompts import starter_prompts
    from alphasteer.resuming import Shelf, write_whole

    started = time.monotonic()
    reporter = ConsoleReporter(quiet)
    work = output_folder(output)
    source = demo_model(reporter)
    reporter.say(f"Loading {source}")
    model, tokenizer = load_model(source, device="cpu")
    steering = fit(model, tokenizer, report=reporter, work=work)
    steering.save_pretrained(output / "steering")
    kinds = ("harmful", "jailbreak", "borderline", "benign")
    tests = {kind: starter_prompts(kind, "test") for kind in kinds}
    fitted = {kind: starter_prompts(kind, "fit") for kind in kinds}
    outcomes = compare(model, tokenizer, steering, tests, reporter, shelf=Shelf(work), max_new_tokens=REPLY_TOKENS)
    suites = suite_results(outcomes)
    draw_figures(
        model,
        tokenizer,
        steering,
        {kind: fitted[kind] for kind in ("benign", "borderline")},
        {kind: fitted[kind] for kind in ("harmful", "jailbreak")},
        tests,
        output,
        Shelf(work),
        reporter,
    )
    results = {
        "format": 1,
        "model": source,
        "suites": suites,
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_mib": _peak_memory_mib(),
    }
    write_whole(output / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    if as_json:
        print(json.dumps(results))
    elif not quiet:
        _show(results, outcomes, output, full_replies)


def _peak_memory_mib() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, but bytes on macOS
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def _show(results: dict[str, Any], outcomes: dict[str, "Outcome"], output: Path, full_replies: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from alphasteer.evaluation import HEADINGS, table_rows

    console = Console(highlight=False)
    replies = Table(
        "request", "unsteered", "steered", title="Replies to unseen prompts", title_justify="left", show_lines=True
    )
    for kind in ("harmful", "jailbreak", "benign"):
        for index in _instructive(outcomes[kind], kind)[:SHOWN]:
            pair = outcomes[kind].pairs[index]
            shown = [pair.prompt]
            for arm in ("vanilla", "steered"):
                text = pair.reply(arm).text
                cut = not full_replies and kind != "benign" and not outcomes[kind].refused[arm][index]
                shown.append(text[:COMPLIANCE_CUT] + " [cut]" if cut else text)
            replies.add_row(*map(_plain, shown))
    console.print(replies)
    table = Table(*HEADINGS, title="Held-out test prompts", title_justify="left")
    for row in table_rows(results["suites"]):
        table.add_row(*row)
    console.print(table)
    console.print(f"{results['seconds']:.0f} seconds, {results['peak_memory_mib']} MiB of memory at most.")
    console.print(f"Wrote {output}: results.json, gate.png, activations.png and the artefact in {output / 'steering'}.")
    console.print(f"Try it: alphasteer chat {output / 'steering'}")


def _instructive(outcome: "Outcome", kind: str) -> list[int]:
    """Which prompts to show, in order: what changed first where change is wanted, else as they come."""
    order = list(range(len(outcome)))
    if kind == "benign":
        return order
    changed = [s and not v for v, s in zip(outcome.refused["vanilla"], outcome.refused["steered"], strict=True)]
    return sorted(order, key=lambda index: not changed[index])


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split())[:240])
