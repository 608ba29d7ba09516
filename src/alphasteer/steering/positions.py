"""Finding reply starts in a stream of tokens that may arrive in pieces."""

import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

UNKNOWN = -1
"""Stands for a token that was never seen."""
PADDING = -2
"""Stands for a token to which nothing attends."""
_MOST_PIECES = 64


def reply_starts(context: Tensor, ids: Tensor, marker: Tensor) -> Tensor:
    """Where the marker ends among the new tokens, knowing the few tokens before them.

    Args:
        context: the m - 1 token ids before ``ids``, -1 where there was none, of shape (rows, m - 1).
        ids: the new token ids, of shape (rows, tokens).
        marker: the reply start's token ids, of shape (m,).

    Returns:
        A mask of shape (rows, tokens).
    """
    whole = torch.cat([context, ids], dim=1)
    return (whole.unfold(1, len(marker), 1) == marker).all(-1)


def begins_a_reply(tokens: Sequence[int], marker: Sequence[int]) -> bool:
    """Whether what follows a prompt would be steered: a reply starts in it, and no other turn begins after that.

    A raw prompt may hold a reply start for show, and then another header, tokenized otherwise, that no gate reads.
    Whatever opens like the reply start is taken for a turn. The words of a reply that has begun may follow.
    """
    if len(tokens) < len(marker):
        return False
    ids = torch.tensor([list(tokens)])
    ends = reply_starts(ids[:, :0], ids, torch.tensor(list(marker)))[0].nonzero()
    return bool(len(ends)) and marker[0] not in tokens[len(marker) + int(ends[-1]) :]


class History:
    """What was seen at each place of a key-value cache, remembered on that cache: its tokens, or what gates read there.

    A marker may be cut in two by a cache: a chunked prefill, a crop before the last token to reply anew. On the
    cache rather than in the attachment, because several conversations, threads and deep copies of a prefilled
    cache then each carry their own, and beam search, which reorders the cache's rows, reorders these too.
    """

    def __init__(self, name: str, unknown: float) -> None:
        """Nothing is remembered yet.

        Args:
            name: whoever uses the same name shares what is remembered; two that do not, both append what they see.
            unknown: stands for what was never seen.
        """
        self.name, self.unknown = f"_alphasteer_{name}", unknown

    def before(self, cache: Any, start: int, new: Tensor, count: int) -> Tensor:
        """What stood at the ``count`` places before ``start``, of shape (rows, count, ...).

        Args:
            cache: a transformers cache, or None for a forward of its own.
            start: how many tokens the cache held before this forward.
            new: what this forward sees, of shape (rows, tokens, ...).
        """
        found: list[Tensor] = []
        missing = count
        for piece in reversed(self._pieces(cache, start, new)):
            if not missing:
                break
            found.insert(0, piece[:, -missing:].to(new.device))
            missing -= found[0].shape[1]
        return torch.cat([self._unknown(new, missing), *found], dim=1)

    def add(self, cache: Any, start: int, new: Tensor) -> None:
        """Remember that this now stands in the cache from place ``start`` on; saying so twice changes nothing."""
        pieces = [*self._pieces(cache, start, new), new]
        if not hasattr(cache, self.name) and hasattr(cache, "reorder_cache"):
            cache.reorder_cache = types.MethodType(_reordering(self.name, cache.reorder_cache.__func__), cache)
        setattr(cache, self.name, pieces if len(pieces) < _MOST_PIECES else [torch.cat(pieces, dim=1)])

    def _pieces(self, cache: Any, start: int, new: Tensor) -> list[Tensor]:
        """What is remembered, ``start`` places long: cut where it was cropped, unknown where it was never seen."""
        pieces: list[Tensor] = getattr(cache, self.name, [])
        rows = new.shape[0]
        if pieces and pieces[0].shape[0] != rows:
            shares, rest = divmod(rows, pieces[0].shape[0])  # as batch_repeat_interleave shares a cache out
            pieces = [] if rest else [piece.repeat_interleave(shares, 0) for piece in pieces]
        held = sum(piece.shape[1] for piece in pieces)
        if held < start:
            return [*pieces, self._unknown(new, start - held)]
        if held > start:
            return [torch.cat(pieces, dim=1)[:, :start]] if start else []
        return pieces

    def _unknown(self, like: Tensor, count: int) -> Tensor:
        return like.new_full((like.shape[0], count, *like.shape[2:]), self.unknown)


def _reordering(name: str, original: Any) -> Any:
    def reorder_cache(cache: Any, beam_idx: Tensor) -> None:
        original(cache, beam_idx)
        whole = torch.cat(getattr(cache, name), dim=1)
        setattr(cache, name, [whole.index_select(0, beam_idx.to(whole.device))])

    return reorder_cache
