"""Batches by token budget: prompts of like length together, so that little is spent on padding."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def batches_by_tokens(lengths: Sequence[int], token_budget: int, max_rows: int | None = None) -> Iterator[list[int]]:
    """Indices in batches of at most ``token_budget`` padded tokens, longest first (a batch holds at least one).

    Longest first: memory runs out at once or never, and the remaining time is overestimated rather than under.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        width = lengths[batch[0]] if batch else lengths[index]
        if batch and ((len(batch) + 1) * width > token_budget or len(batch) == max_rows):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def tracked_batches(
    lengths: Sequence[int], token_budget: int, max_rows: int | None = None
) -> Iterator[tuple[list[int], int]]:
    """The same batches, each with the tokens it holds: what a reporter wants to follow a loop."""
    for batch in batches_by_tokens(lengths, token_budget, max_rows):
        yield batch, sum(lengths[i] for i in batch)


def pad(sequences: Sequence[Sequence[int]], side: str, fill: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both of shape (rows, longest), padded on the ``left`` or the ``right``."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), fill, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(sequences):
        span = slice(width - len(tokens), width) if side == "left" else slice(0, len(tokens))
        ids[row, span] = torch.tensor(tokens, dtype=torch.long)
        mask[row, span] = 1
    return ids, mask
