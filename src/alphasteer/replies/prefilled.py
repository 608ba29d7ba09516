"""Prompts whose key-value cache is kept, to try many steerings on them for the price of the replies alone.

A steering that acts at reply starts only leaves everything before them as it was, so the cache of the prompts up
to there is the same for every such steering.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alphasteer.prompts import pad, tracked_batches
from alphasteer.replies.generating import ROWS, TOKEN_BUDGET, Reply, end_tokens, filler_token, greedy, until_end
from alphasteer.reporting import Reporter


@dataclass(frozen=True)
class _Batch:
    rows: list[int]
    ids: Tensor
    mask: Tensor
    cache: Any


class PrefilledPrompts:
    """Rendered prompts, run once up to their reply starts."""

    @torch.inference_mode()
    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        sequences: Sequence[Sequence[int]],
        reply_start: Sequence[int],
        report: Reporter,
        *,
        reuse: bool = True,
    ) -> None:
        """Run all prompts but for their last ``len(reply_start)`` tokens, unsteered.

        Args:
            sequences: token ids, each ending with the reply start.
            reply_start: the reply start's token ids; these stay to be run, so that a steering can see them.
            reuse: False for steerings that act at other positions too; every try then runs the whole prompts.
        """
        self.model, self.tokenizer, self.count = model, tokenizer, len(sequences)
        self._filler = filler_token(tokenizer)
        lengths = [len(sequence) for sequence in sequences]

        self._batches = []
        tracked = tracked_batches(lengths, TOKEN_BUDGET, ROWS)
        for rows in report.track(tracked, "Running the probe prompts", sum(lengths)):
            ids, mask = pad([sequences[i] for i in rows], side="left", fill=self._filler)
            ids, mask = ids.to(model.device), mask.to(model.device)
            cache = self._prefill(ids, mask, len(reply_start)) if reuse else None
            self._batches.append(_Batch(rows, ids, mask, cache))

    def _prefill(self, ids: Tensor, mask: Tensor, kept_back: int) -> Any:
        before, seen = ids[:, :-kept_back], mask[:, :-kept_back]
        places = (seen.cumsum(1) - 1).clamp(min=0)
        return self.model(
            input_ids=before, attention_mask=seen, position_ids=places, use_cache=True, logits_to_keep=1
        ).past_key_values

    @torch.inference_mode()
    def replies(self, max_new_tokens: int) -> list[Reply]:
        """Greedy replies, under whatever steering is attached now; in the order of the prompts."""
        ends = end_tokens(self.model, self.tokenizer)
        replies: dict[int, Reply] = {}
        for batch in self._batches:
            output = self.model.generate(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                past_key_values=copy.deepcopy(batch.cache),
                **greedy(self._filler, max_new_tokens),
            )
            for row, tokens in zip(batch.rows, output[:, batch.ids.shape[1] :].tolist(), strict=True):
                kept = until_end(tokens, ends)
                replies[row] = Reply(kept, self.tokenizer.decode(kept, skip_special_tokens=True))
        return [replies[row] for row in range(self.count)]
