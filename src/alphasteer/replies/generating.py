"""Greedy replies to many prompts, in batches of like length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alphasteer.prompts import pad, tracked_batches
from alphasteer.replies.judging import THOUGHT
from alphasteer.reporting import Reporter

ROWS = 32
TOKEN_BUDGET = 8192
REPLY_START_TAIL = 8
"""Tokens at a prompt's end in which a template may open a thought."""


@dataclass(frozen=True)
class Reply:
    """What a model answered: its token ids up to and with the end of turn, and the text without special tokens."""

    tokens: tuple[int, ...]
    text: str


@torch.inference_mode()
def generate_replies(
    model: Any,
    tokenizer: Any,
    sequences: Sequence[Sequence[int]],
    report: Reporter,
    *,
    max_new_tokens: int,
) -> list[Reply]:
    """Greedy replies in the order of the prompts.

    Args:
        sequences: the rendered prompts' token ids.
        max_new_tokens: a reply's length at most.
    """
    replies: dict[int, Reply] = {}
    lengths = [len(sequence) + max_new_tokens for sequence in sequences]
    filler = filler_token(tokenizer)

    for batch in report.track(tracked_batches(lengths, TOKEN_BUDGET, ROWS), "Generating replies", sum(lengths)):
        ids, mask = pad([sequences[i] for i in batch], side="left", fill=filler)
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            **greedy(filler, max_new_tokens),
        )
        replies |= zip(batch, decoded(model, tokenizer, output, ids.shape[1]), strict=True)
    return [replies[i] for i in range(len(sequences))]


def greedy(filler: int, max_new_tokens: int) -> dict[str, Any]:
    """Arguments of ``model.generate`` for greedy replies; the model's sampling defaults are set aside."""
    sampling = dict.fromkeys(("temperature", "top_p", "top_k"))
    return {"max_new_tokens": max_new_tokens, "do_sample": False, "pad_token_id": filler, **sampling}


def filler_token(tokenizer: Any) -> int:
    """The token that fills a batch's shorter rows."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def decoded(model: Any, tokenizer: Any, generated: Tensor, prompt: int) -> list[Reply]:
    """The replies in generated token ids, each up to and with the token that ends its turn.

    Where the prompt ends with the opening of a thought, as some templates write it, the text begins with it: what
    never comes to its end is then no reply.

    Args:
        generated: of shape (rows, prompt + tokens).
        prompt: how many of these are the prompt's.
    """
    ends = model.generation_config.eos_token_id
    listed = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id}
    replies = []
    for whole in generated.tolist():
        row, before = whole[prompt:], tokenizer.decode(whole[:prompt][-REPLY_START_TAIL:])
        length = next((place for place, token in enumerate(row, start=1) if token in listed), len(row))
        thought = THOUGHT if before.rstrip().endswith(THOUGHT) else ""
        replies.append(Reply(tuple(row[:length]), thought + tokenizer.decode(row[:length], skip_special_tokens=True)))
    return replies
