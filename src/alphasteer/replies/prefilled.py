"""Prompts whose key-value cache is kept, to try many steerings on them for the price of the replies alone.

A steering that acts at reply starts only leaves everything before them as it was, so the cache of the prompts up
to there is the same for every such steering. What all the prompts share at their beginning (the template's system
prompt) runs once.
"""

import copy
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alphasteer.models import shareable_cache
from alphasteer.prompts import common_prefix_length, pad, tracked_batches
from alphasteer.replies.generating import ROWS, TOKEN_BUDGET, Reply, decoded, filler_token, greedy
from alphasteer.reporting import Reporter
from alphasteer.steering import Steering


@dataclass(frozen=True)
class _Batch:
    rows: list[int]
    ids: Tensor
    mask: Tensor
    cache: Any


class PrefilledPrompts:
    """Rendered prompts, run once up to their reply starts."""

    @torch.no_grad()  # not inference mode: gradients pass through what attends to these caches
    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        sequences: Sequence[Sequence[int]],
        reply_start: Sequence[int],
        report: Reporter,
        *,
        reuse: bool = True,
        rows: int | None = None,
        readers: Iterable[Steering] = (),
    ) -> None:
        """Run all prompts but for their last ``len(reply_start)`` tokens; unsteered, if nothing is attached.

        Args:
            sequences: token ids, each ending with the reply start.
            reply_start: the reply start's token ids; these stay to be run, so that a steering can see them.
            reuse: False for steerings that act at other positions too; every try then runs the whole prompts.
            rows: prompts in a batch at most, ``generating.ROWS`` if not given.
            readers: steerings to try later, whose gates read prompt ends: they have to be there when these run.
        """
        self.model, self.tokenizer, self.count = model, tokenizer, len(sequences)
        self._filler, self._kept_back = filler_token(tokenizer), len(reply_start)
        lengths = [len(sequence) for sequence in sequences]
        self._batches = []
        with ExitStack() as attached:
            for reader in _different_gates(readers) if reuse else ():
                attached.enter_context(reader.attach(model, strength=0.0))
            shared = self._shared(sequences) if reuse else None
            tracked = tracked_batches(lengths, TOKEN_BUDGET, rows or ROWS)
            for batch in report.track(tracked, "Running the probe prompts", sum(lengths)):
                chosen = [sequences[i] for i in batch]
                ids, mask = self._padded(chosen, "left") if shared is None else self._padded_after(chosen, shared)
                self._batches.append(_Batch(batch, ids, mask, self._prefill(ids, mask, shared) if reuse else None))

    @property
    def batches(self) -> list[list[int]]:
        """Which prompts run together."""
        return [batch.rows for batch in self._batches]

    def _padded(self, sequences: Sequence[Sequence[int]], side: str) -> tuple[Tensor, Tensor]:
        ids, mask = pad(sequences, side=side, fill=self._filler)
        return ids.to(self.model.device), mask.to(self.model.device)

    def _shared(self, sequences: Sequence[Sequence[int]]) -> Any:
        """The cache of what all sequences begin with, or None where there is none to share."""
        if len(sequences) < 2:
            return None
        length = common_prefix_length([sequence[: -self._kept_back] for sequence in sequences])
        cache = shareable_cache(self.model, sliding=False)
        if cache is None or length < 1:
            return None
        ids = torch.tensor([list(sequences[0][:length])], device=self.model.device)
        self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    def _padded_after(self, sequences: Sequence[Sequence[int]], shared: Any) -> tuple[Tensor, Tensor]:
        """Token ids and mask of rows whose padding stands after what they share."""
        length = shared.get_seq_length()
        ids, mask = self._padded([sequence[length:] for sequence in sequences], "left")
        beginning = torch.tensor(list(sequences[0][:length]), device=ids.device).expand(len(sequences), -1)
        return torch.cat([beginning, ids], dim=1), torch.cat([torch.ones_like(beginning), mask], dim=1)

    def _prefill(self, ids: Tensor, mask: Tensor, shared: Any) -> Any:
        cache, known = copy.deepcopy(shared), 0
        if shared is not None:
            known = shared.get_seq_length()
            cache.batch_repeat_interleave(len(ids))
        seen = mask[:, : -self._kept_back]
        return self.model(
            input_ids=ids[:, known : -self._kept_back],
            attention_mask=seen,
            position_ids=_places(seen)[:, known:],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).past_key_values

    @torch.inference_mode()
    def replies(self, max_new_tokens: int) -> list[Reply]:
        """Greedy replies, under whatever steering is attached now; in the order of the prompts."""
        replies: dict[int, Reply] = {}
        for batch in self._batches:
            output = self.model.generate(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                past_key_values=copy.deepcopy(batch.cache),
                **greedy(self._filler, max_new_tokens),
            )
            new = decoded(self.model, self.tokenizer, output, batch.ids.shape[1])
            replies.update(zip(batch.rows, new, strict=True))
        return [replies[row] for row in range(self.count)]

    @torch.inference_mode()
    def first_logits(self, number: int) -> Tensor:
        """Logits of the reply's first token for one batch's prompts, of shape (rows, vocabulary), float32.

        Under whatever steering is attached now.
        """
        batch = self._batches[number]
        new = batch.ids if batch.cache is None else batch.ids[:, -self._kept_back :]
        return self._logits(batch, new, batch.mask, keep=1)[:, -1]

    def surprise(self, number: int, replies: Sequence[Sequence[int]]) -> Tensor:
        """Mean negative log-likelihood, in nats a token, of given replies to one batch's prompts.

        Under whatever steering is attached now, and differentiable in its directions. Needs ``reuse``.

        Args:
            number: the batch's place in ``batches``.
            replies: the replies' token ids, one for each of its prompts.
        """
        batch = self._batches[number]
        ids, mask = self._padded(replies, "right")
        # The cache ends before the reply start; a reply's last token predicts nothing that is asked for.
        run = torch.cat([batch.ids[:, -self._kept_back :], ids[:, :-1]], dim=1)
        seen = torch.cat([batch.mask, mask[:, :-1]], dim=1)
        logits = self._logits(batch, run, seen, keep=ids.shape[1])
        surprise = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
        return (surprise * mask).sum() / mask.sum()

    def _logits(self, batch: _Batch, new: Tensor, mask: Tensor, keep: int) -> Tensor:
        """Float32 logits after the last ``keep`` of the new tokens, run on a copy of the kept cache."""
        logits: Tensor = self.model(
            input_ids=new,
            attention_mask=mask,
            position_ids=_places(mask)[:, -new.shape[1] :],
            past_key_values=copy.deepcopy(batch.cache),
            use_cache=True,
            logits_to_keep=keep,
        ).logits
        return logits.float()


def _different_gates(steerings: Iterable[Steering]) -> Iterable[Steering]:
    """Of those that read prompt ends, one for all with the same gates: they read for each other."""
    return {tuple(id(push.gate) for push in s.pushes): s for s in steerings if s.reads_prompt_end}.values()


def _places(mask: Tensor) -> Tensor:
    """Position ids of rows that are padded before their end."""
    return (mask.cumsum(1) - 1).clamp(min=0)
