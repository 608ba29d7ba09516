"""Greedy replies to many prompts, in batches of like length."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from alphasteer.prompts import batches_by_tokens, pad
from alphasteer.reporting import Reporter

ROWS = 32
TOKEN_BUDGET = 8192


@dataclass(frozen=True)
class Reply:
    """What a model answered: its token ids up to and with the end of turn, and the text without special tokens."""

    tokens: tuple[int, ...]
    text: str


def ignore_batch(_: Mapping[int, Reply]) -> None:
    """The default for ``keep``: forget the batch."""


@torch.inference_mode()
def generate_replies(
    model: Any,
    tokenizer: Any,
    sequences: Sequence[Sequence[int]],
    report: Reporter,
    *,
    max_new_tokens: int,
    known: Mapping[int, Reply] | None = None,
    keep: Callable[[Mapping[int, Reply]], None] = ignore_batch,
    description: str = "Generating replies",
) -> list[Reply]:
    """Greedy replies in the order of the prompts.

    Args:
        sequences: the rendered prompts' token ids.
        max_new_tokens: a reply's length at most.
        known: replies from an earlier, interrupted run, by index. A batch is generated again unless it is known
            whole, so every batch holds the same prompts however often the run was interrupted.
        keep: called after each batch with its replies by index.
    """
    replies = dict(known or {})
    lengths = [len(sequence) + max_new_tokens for sequence in sequences]
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ends = _end_tokens(model, tokenizer)

    def batches() -> Iterator[tuple[list[int], int]]:
        for batch in batches_by_tokens(lengths, TOKEN_BUDGET, ROWS):
            yield batch, sum(lengths[i] for i in batch)

    for batch in report.track(batches(), description, sum(lengths)):
        if all(i in replies for i in batch):
            continue
        ids, mask = pad([sequences[i] for i in batch], side="left", fill=filler)
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=filler,
        )
        new = {}
        for i, row in zip(batch, output[:, ids.shape[1] :].tolist(), strict=True):
            tokens = _until_end(row, ends)
            new[i] = Reply(tokens, tokenizer.decode(tokens, skip_special_tokens=True))
        replies |= new
        keep(new)
    return [replies[i] for i in range(len(sequences))]


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return {end for end in (*listed, tokenizer.eos_token_id) if end is not None}


def _until_end(tokens: Sequence[int], ends: set[int]) -> tuple[int, ...]:
    for position, token in enumerate(tokens):
        if token in ends:
            return tuple(tokens[: position + 1])
    return tuple(tokens)
