"""``alphasteer generate``: replies of a steered model."""

from typing import Annotated

import typer

from alphasteer.cli.console import ConsoleReporter
from alphasteer.cli.options import SPEC, AsJson, Device, Dtype, Folder, MaxNewTokens, Model, Quiet, Strength


def command(
    folder: Folder,
    prompt: Annotated[list[str] | None, typer.Argument(help="What the user says.")] = None,
    prompts: Annotated[str | None, typer.Option(help=f"The prompts: {SPEC}.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.")] = None,
    model: Model = None,
    strength: Strength = 1.0,
    max_new_tokens: MaxNewTokens = 200,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Print the steered model's greedy replies to prompts."""
    if bool(prompt) == bool(prompts):
        raise typer.BadParameter("give prompts as arguments or with --prompts, one of the two.", param_hint="PROMPT")
    import json

    from alphasteer.models import context_length
    from alphasteer.prompts import ChatTemplate, PromptSet, read_prompts
    from alphasteer.replies import generate_replies
    from alphasteer.steering import load_steered

    reporter = ConsoleReporter(quiet)
    chosen = (read_prompts(prompts) if prompts else PromptSet.of(prompt or [])).first_or_drawn(limit)
    steering, loaded, tokenizer = load_steered(folder, model, device, dtype)
    room = context_length(loaded)
    sequences = ChatTemplate(tokenizer).render_all(chosen.prompts, None if room is None else room - max_new_tokens)
    with steering.attach(loaded, strength=strength):
        replies = generate_replies(loaded, tokenizer, sequences, reporter, max_new_tokens=max_new_tokens)
    for each, reply in zip(chosen, replies, strict=True):
        if as_json:
            print(json.dumps({"id": each.id, "prompt": each.text, "reply": reply.text}, ensure_ascii=False))
        elif len(chosen) == 1:
            print(reply.text)
        else:
            print(f"> {each.text}\n{reply.text}\n")
