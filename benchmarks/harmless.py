"""How many replies to harmless prompts a steering changes, over whole suites.

Where the gate stays shut the reply is the unsteered model's, bit for bit, so that only prompts which open it are
replied to: hundreds of prompts then cost what a few cost in ``alphasteer eval``.
"""

from typing import Annotated, Any

import typer

from alphasteer.activations import score_prompts
from alphasteer.evaluation import read_suites
from alphasteer.evaluation.intervals import wilson
from alphasteer.models import context_length
from alphasteer.prompts import ChatTemplate, Prompt
from alphasteer.replies import compare_replies
from alphasteer.reporting import LogReporter
from alphasteer.resuming import Shelf
from alphasteer.steering import Steering, load_steered
from benchmarks.common import any_open, table, write

COLUMNS = ["suite", "n", "gate open", "answered otherwise", "low", "high"]


def main(
    artefact: Annotated[str, typer.Argument(help="An artefact's folder.")],
    suite: Annotated[list[str], typer.Option(help="As alphasteer eval takes it: NAME, or NAME=SPEC.")],
    tokens: Annotated[int, typer.Option(help="Length of the replies that are compared.")] = 48,
    model: Annotated[str | None, typer.Option(help="The model, if it is elsewhere now.")] = None,
) -> None:
    steering, loaded, tokenizer = load_steered(artefact, model, "cpu", "auto")
    rows = []
    for each in (suite for name in suite for suite in read_suites(name)):
        prompts = each.prompts.prompts
        gates = score_prompts(loaded, tokenizer, steering, prompts, LogReporter())
        opening = [prompt for prompt, is_open in zip(prompts, any_open(gates).tolist(), strict=True) if is_open]
        share = _changed(loaded, tokenizer, steering, opening, tokens) / len(prompts)
        rows.append([each.name, len(prompts), len(opening) / len(prompts), share, *wilson(share, len(prompts))])
    write("harmless", {"artefact": artefact, "rows": [dict(zip(COLUMNS, row, strict=True)) for row in rows]})
    table("Harmless prompts that are answered otherwise", COLUMNS, rows)


def _changed(model: Any, tokenizer: Any, steering: Steering, prompts: list[Prompt], tokens: int) -> int:
    if not prompts:
        return 0
    template = ChatTemplate(tokenizer)
    unsteered, steered = compare_replies(
        model,
        tokenizer,
        template.render_all(prompts, context_length(model)),
        template.reply_start,
        {"unsteered": None, "steered": steering},
        LogReporter(),
        max_new_tokens=tokens,
        shelf=Shelf(),
        description="Replies",
    ).values()
    return sum(a.tokens != b.tokens for a, b in zip(unsteered, steered, strict=True))


if __name__ == "__main__":
    typer.run(main)
