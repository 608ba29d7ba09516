"""Each step's reply starts on vLLM's second model runner, whose tokens, once written, are on the device alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphasteer.engines.vllm.batches import Filler
from alphasteer.engines.vllm.layers import StepBuffers
from alphasteer.engines.vllm.prompt_ends import StepTokens
from alphasteer.engines.vllm.reply_starts import reply_starts
from alphasteer.engines.vllm.requests import strength_of
from alphasteer.engines.vllm.settings import ServingConfig


class SecondStepFiller(Filler):
    """Fills the buffers before each step, by work queued on the device: nothing waits for it.

    Requests stand in numbered slots; what is known of them only when they come (strength, where the reply starts) is
    kept by slot, and overwritten by the slot's next request.
    """

    def __init__(self, step: StepBuffers, marker: Sequence[int], config: ServingConfig, slots: int) -> None:
        super().__init__(step, marker, config)
        device = step.strength.device
        self._backwards = torch.tensor(self.marker[::-1], device=device)
        self._back = torch.arange(len(self.marker), device=device)
        self._strengths = torch.zeros(slots, device=device)
        self._reply_starts = np.full(slots, -1, dtype=np.int64)
        step.any = True  # which tokens are reply starts is known on the device only

    def add(self, slot: int, new: Any) -> None:
        """Remember a request that comes into a slot (vLLM's NewRequestData)."""
        self._strengths[slot] = strength_of(new.sampling_params, self.config)
        prompt = np.asarray(new.prefill_token_ids[: new.prompt_len])[None]
        starts = reply_starts(prompt, np.zeros(1, int), np.array([prompt.shape[1]]), self.marker).nonzero()[0]
        self._reply_starts[slot] = starts[-1] if len(starts) else -1

    def fill(self, batch: Any, tokens: Tensor) -> None:
        """Write the strengths of this step's tokens.

        Args:
            batch: vLLM's InputBatch.
            tokens: every slot's tokens so far, of shape (slots, length).
        """
        count = batch.num_tokens
        at = torch.arange(count, device=self._back.device, dtype=batch.query_start_loc.dtype)
        requests = torch.searchsorted(batch.query_start_loc[1 : batch.num_reqs + 1], at, right=True)
        slots, places = batch.idx_mapping[requests].long(), batch.positions[:count]
        before = places[:, None] - self._back
        found = ((tokens[slots[:, None], before.clamp_min(0)] == self._backwards) & (before >= 0)).all(-1)
        self.step.strength.zero_()
        self.step.strength[:count] = self._strengths[slots] * found
        if self.step.ends is not None:
            ends = batch.query_start_loc[1 : batch.num_reqs + 1][requests].long()
            first = batch.query_start_loc[: batch.num_reqs][requests].long()
            begin = places[first].long()
            where = StepTokens(slots, slots, places.long(), first, begin, begin + ends - first)
            # Those that are none stand behind: how many there are is known on the device only.
            starts = found.long().argsort(descending=True, stable=True)[: len(self.step.ends.starts)]
            self.step.ends.fill(tokens, where, starts, found[starts])
        self.note(self._replies(batch))

    def _replies(self, batch: Any) -> dict[str, int]:
        """Where among this step's tokens replies start, by request; the processor knows that without the device."""
        starts, computed = self._reply_starts[batch.idx_mapping_np], batch.num_computed_tokens_np
        here = (starts >= computed) & (starts < computed + batch.num_scheduled_tokens)
        rows = batch.query_start_loc_np[: batch.num_reqs] + starts - computed
        return {batch.req_ids[i]: int(rows[i]) for i in here.nonzero()[0]}
