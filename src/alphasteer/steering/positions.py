"""Finding reply starts in a stream of tokens that may arrive in pieces."""

import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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


class TokenHistory:
    """The tokens that a key-value cache holds, remembered on that cache.

    A marker may be cut in two by a cache: a chunked prefill, a crop before the last token to reply anew. On the
    cache rather than in the attachment, because several conversations, threads and deep copies of a prefilled
    cache then each carry their own, and beam search, which reorders the cache's rows, reorders these too.
    """

    def __init__(self, owner: object) -> None:
        # By owner: two attachments on one model both append what they see.
        self.name = f"_alphasteer_tokens_{id(owner)}"

    def before(self, cache: Any, start: int, ids: Tensor, count: int) -> Tensor:
        """The ``count`` tokens before position ``start``, of shape (rows, count), -1 where unknown.

        Args:
            cache: a transformers cache, or None for a forward of its own.
            start: how many tokens the cache held before this forward.
            ids: this forward's tokens, of shape (rows, tokens).
        """
        pieces = self._pieces(cache, start, ids)
        known = torch.cat(pieces[-count:], dim=1)[:, -count:] if pieces and count else ids[:, :0]
        missing = ids.new_full((ids.shape[0], count - known.shape[1]), -1)
        return torch.cat([missing, known.to(ids.device)], dim=1)

    def add(self, cache: Any, start: int, ids: Tensor) -> None:
        """Remember that these tokens now stand in the cache from position ``start`` on."""
        pieces = [*self._pieces(cache, start, ids), ids]
        if not hasattr(cache, self.name) and hasattr(cache, "reorder_cache"):
            cache.reorder_cache = types.MethodType(_reordering(self.name, cache.reorder_cache.__func__), cache)
        setattr(cache, self.name, pieces if len(pieces) < _MOST_PIECES else [torch.cat(pieces, dim=1)])

    def _pieces(self, cache: Any, start: int, ids: Tensor) -> list[Tensor]:
        """What is remembered, ``start`` tokens long: cut where it was cropped, -1 for what was never seen."""
        pieces: list[Tensor] = getattr(cache, self.name, [])
        if pieces and pieces[0].shape[0] != ids.shape[0]:
            pieces = []
        held = sum(piece.shape[1] for piece in pieces)
        if held < start:
            return [*pieces, ids.new_full((ids.shape[0], start - held), -1)]
        if held > start:
            return [torch.cat(pieces, dim=1)[:, :start]] if start else []
        return pieces


def _reordering(name: str, original: Any) -> Any:
    def reorder_cache(cache: Any, beam_idx: Tensor) -> None:
        original(cache, beam_idx)
        whole = torch.cat(getattr(cache, name), dim=1)
        setattr(cache, name, [whole.index_select(0, beam_idx.to(whole.device))])

    return reorder_cache
