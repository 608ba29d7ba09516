"""The prompts that ship with the project, written for it: enough to fit and judge a first steering.

Every prompt has a fixed split (fit, validation, test); so has every jailbreak wrapper, and a wrapped request
takes both from the same split, so the test split shows unseen requests in unseen wrappers.
"""

import base64
import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from alphasteer.errors import PromptError
from alphasteer.prompts.prompt_set import Message, Prompt, PromptSet

KINDS = ("benign", "borderline", "harmful", "jailbreak")
SPLITS = ("fit", "validation", "test")

_LOWER, _UPPER = ascii_lowercase, ascii_uppercase
_ROT13, _CAESAR = (str.maketrans(_LOWER + _UPPER, _LOWER[n:] + _LOWER[:n] + _UPPER[n:] + _UPPER[:n]) for n in (13, 3))
_ATBASH = str.maketrans(_LOWER + _UPPER, _LOWER[::-1] + _UPPER[::-1])
_CODES = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.. "
    "----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----. /"
)
_MORSE = dict(zip(_LOWER + "0123456789 ", _CODES.split(), strict=True))
_ENCODINGS: dict[str, Callable[[str], str]] = {
    "{request}": lambda text: text,
    "{request_base64}": lambda text: base64.b64encode(text.encode()).decode(),
    "{request_rot13}": lambda text: str.translate(text, _ROT13),
    "{request_spaced}": lambda text: " ".join(text),
    "{request_reversed}": lambda text: text[::-1],
    "{request_caesar}": lambda text: str.translate(text, _CAESAR),
    "{request_atbash}": lambda text: str.translate(text, _ATBASH),
    "{request_ascii}": lambda text: " ".join(str(byte) for byte in text.encode()),
    "{request_hex}": lambda text: text.encode().hex(" "),
    "{request_morse}": lambda text: " ".join(_MORSE[sign] for sign in text.lower() if sign in _MORSE),
}


def starter_prompts(kind: str, split: str | None = None) -> PromptSet:
    """One starter set, whole or one split of it.

    Args:
        kind: ``benign``, ``borderline``, ``harmful`` (direct requests) or ``jailbreak`` (harmful requests in
            wrappers: every request once, the split's wrappers taken in turn).
        split: ``fit``, ``validation``, ``test``, or None for all three.
    """
    if split is not None and split not in SPLITS:
        raise PromptError(f"starter:{kind}@{split}: there is no such split; choose one of {', '.join(SPLITS)}.")
    prompts = _jailbreaks() if kind == "jailbreak" else _read(kind)
    chosen = [prompt for prompt in prompts if split in (None, prompt.split)]
    return PromptSet.of(chosen, name=f"starter:{kind}" + (f"@{split}" if split else ""))


def starter_contexts(split: str) -> list[tuple[Message, ...]]:
    """Turns that may stand before a prompt, of one split: a system prompt, or what a user asked and was told."""
    return [tuple(row["messages"]) for row in _rows("contexts") if row["split"] == split]


def in_wrapper(wrapper: Mapping[str, str], request: Prompt) -> Prompt:
    """A request in a jailbreak wrapper, where it stands as it is or encoded, as the field in the template says.

    Args:
        wrapper: its ``id``, ``kind`` and ``template``.
    """
    text = wrapper["template"]
    for field, encode in _ENCODINGS.items():
        text = text.replace(field, encode(request.text))
    return Prompt.of(text, f"{wrapper['id']}+{request.id}", wrapper["kind"], request.split)


def _rows(name: str) -> list[dict[str, Any]]:
    text = files(__package__).joinpath(f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _read(name: str) -> list[Prompt]:
    return [Prompt.of(row["prompt"], row["id"], row["category"], row["split"]) for row in _rows(name)]


def _jailbreaks() -> list[Prompt]:
    wrappers = _rows("jailbreaks")
    wrapped: list[Prompt] = []
    for split in SPLITS:
        usable = [w for w in wrappers if w["split"] == split]
        requests = [prompt for prompt in _read("harmful") if prompt.split == split]
        wrapped += [in_wrapper(usable[n % len(usable)], request) for n, request in enumerate(requests)]
    return wrapped
