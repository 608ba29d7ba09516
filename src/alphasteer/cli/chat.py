"""``alphasteer chat``: talk to a steered model."""

import math
from typing import TYPE_CHECKING, Any

from alphasteer.cli.options import Device, Dtype, Folder, MaxNewTokens, Model, Strength

if TYPE_CHECKING:
    from alphasteer.steering import Attached

HELP = "/strength X  factor on the push    /off  no push    /gates  what the gate read    /new  forget    /quit"


def command(
    folder: Folder,
    model: Model = None,
    strength: Strength = 1.0,
    max_new_tokens: MaxNewTokens = 300,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Chat with the steered model; replies stream. Inside: /strength 0.5, /off, /gates, /new, /quit."""
    from rich.console import Console

    from alphasteer.steering import load_steered

    console = Console(highlight=False)
    steering, loaded, tokenizer = load_steered(folder, model, device, dtype)
    console.print(HELP, markup=False)
    messages: list[dict[str, str]] = []
    with steering.attach(loaded, strength=strength) as attached:
        while True:
            try:
                line = console.input("[bold]you[/bold] > ").strip()
            except (EOFError, KeyboardInterrupt):
                console.print()
                return
            if line == "/quit":
                return
            if line.startswith("/"):
                console.print(_obey(line, attached, messages), markup=False)
            elif line:
                messages.append({"role": "user", "content": line})
                reply = _stream(loaded, tokenizer, messages, max_new_tokens, console)
                messages.append({"role": "assistant", "content": reply})


def _obey(line: str, attached: "Attached", messages: list[dict[str, str]]) -> str:
    name, _, value = line.partition(" ")
    if name == "/off":
        attached.strength = 0.0
        return "strength 0: the model is unsteered"
    if name == "/strength":
        try:
            asked = float(value)
        except ValueError:
            asked = math.nan
        if not math.isfinite(asked):
            return f"/strength wants a number, such as /strength 0.5 (now {float(attached.strength):g})"
        attached.strength = asked
        return f"strength {asked:g}"
    if name == "/gates":
        return _gates(attached) or "no reply yet"
    if name == "/new":
        messages.clear()
        return "a new conversation"
    return HELP


def _gates(attached: "Attached") -> str:
    return "\n".join(
        f"layer {reading.layer}: score {float(reading.scores[-1]):.3f}, open {float(reading.values[-1]):.0%}"
        for reading in attached.last_gates
    )


def _stream(model: Any, tokenizer: Any, messages: list[dict[str, str]], max_new_tokens: int, console: Any) -> str:
    """Print the reply as it comes; Ctrl-C ends it and keeps what was said."""
    import torch
    from transformers import TextStreamer

    from alphasteer.prompts import ChatTemplate, Prompt
    from alphasteer.replies.generating import filler_token

    ids = torch.tensor([ChatTemplate(tokenizer).render(Prompt("chat", tuple(messages)))], device=model.device)
    said: list[str] = []

    class Kept(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            said.append(text)
            super().on_finalized_text(text, stream_end)

    try:
        with torch.inference_mode():
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                pad_token_id=filler_token(tokenizer),
                streamer=Kept(tokenizer, skip_prompt=True, skip_special_tokens=True),
            )
    except KeyboardInterrupt:
        console.print()
    return "".join(said)
