"""Counting the tokens that a model is run on: what a search costs, on any machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass
class Tokens:
    """How many were run so far, padding included."""

    count: int = 0


@contextmanager
def counted_tokens(model: Any) -> Iterator[Tokens]:
    """Count every token whose embedding the model looks up meanwhile."""
    tokens = Tokens()

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs["input"]
        tokens.count += ids.numel()

    handle = model.get_input_embeddings().register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield tokens
    finally:
        handle.remove()
