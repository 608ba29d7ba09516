"""Batches by token budget: prompts of like length together, so that little is spent on padding."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from alphasteer.prompts.chat import common_prefix_length

GROUP_COST = 512
"""Tokens that a group by itself must save: its last batches are less full."""


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


def by_beginning(sequences: Sequence[Sequence[int]], fewest: int = 16) -> list[tuple[int, list[int]]]:
    """Indices in groups that share their beginnings, each with the length of its own: what can be run once for all.

    Prompts in chats share the template's head, and those in one chat the whole of it.

    Args:
        sequences: token ids.
        fewest: a group by itself has at least so many.

    Returns:
        Groups of (length, indices); every length leaves each of its sequences a token of its own.
    """
    return _grouped(sequences, list(range(len(sequences))), fewest)[0] if sequences else []


def _grouped(
    sequences: Sequence[Sequence[int]], rows: list[int], fewest: int
) -> tuple[list[tuple[int, list[int]]], int]:
    """The groups, and the tokens that need not be run again."""
    shared = common_prefix_length([sequences[i] for i in rows])
    by_next = defaultdict(list)
    for i in rows:
        by_next[sequences[i][shared]].append(i)
    groups: list[tuple[int, list[int]]] = []
    rest, saved = [], 0
    for part in by_next.values():
        inner, gain = _grouped(sequences, part, fewest) if fewest <= len(part) < len(rows) else ([], 0)
        if gain - len(part) * shared > GROUP_COST:
            groups, saved = groups + inner, saved + gain
        else:
            rest += part
    if rest:
        shared = common_prefix_length([sequences[i] for i in rest]) if len(rest) > 1 else 0
        groups.append((shared, rest))
        saved += (len(rest) - 1) * shared
    return groups, saved


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
