"""Each step's tokens: which of them are reply starts, and how strongly their requests are steered."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphasteer.engines.vllm.layers import StepBuffers
from alphasteer.engines.vllm.prompt_ends import PromptEndBuffers, StepTokens
from alphasteer.engines.vllm.reply_starts import reply_starts, step_places
from alphasteer.engines.vllm.requests import strength_of
from alphasteer.engines.vllm.settings import ServingConfig

FILLER = "_alphasteer_filler"
"""The attribute of a steered vLLM model that holds its filler."""


class Filler:
    """What the fillers of both model runners have in common: they know where the step's replies start.

    Args:
        step: what is filled.
        marker: the reply start's token ids.
        config: the operator's settings.
    """

    def __init__(self, step: StepBuffers, marker: Sequence[int], config: ServingConfig) -> None:
        self.step, self.marker, self.config = step, tuple(marker), config
        self._starts: Mapping[str, int] = {}
        self._last = 0

    def note(self, starts: Mapping[str, int]) -> None:
        """Remember, for each request whose reply starts in this step, where among the step's tokens."""
        self._starts = starts
        self._last = max(starts.values(), default=self._last)

    def last_scores(self) -> list[float]:
        """What each gate read at the last reply start of the last step that had one."""
        scores: list[float] = self.step.scores[:, self._last].tolist()
        return scores

    def take_scores(self) -> tuple[list[str], Tensor] | None:
        """What the gates read where this step's replies start; told once, and to be asked when the layers have run.

        Returns:
            The requests, and their scores on the CPU, of shape (requests, pushes): there when what was queued on the
            device before is done. None if no reply starts.
        """
        starts, self._starts = self._starts, {}
        if not starts:
            return None
        places, device = torch.tensor(list(starts.values())), self.step.scores.device
        if device.type == "cuda":  # pinned, for a copy from pageable memory would wait for the layers
            places = places.pin_memory().to(device, non_blocking=True)
        return list(starts), self.step.scores[:, places].T.to("cpu", non_blocking=True)


class StepFiller(Filler):
    """Fills the buffers before each step of vLLM's first model runner, which has all tokens at hand."""

    def __init__(self, step: StepBuffers, marker: Sequence[int], config: ServingConfig) -> None:
        super().__init__(step, marker, config)
        self._slots: dict[str, int] = {}  # rows of the batch change hands, so requests get slots of their own

    def fill(self, runner: Any, scheduled: Any) -> None:
        """Write the strengths of this step's tokens.

        Args:
            runner: vLLM's GPUModelRunner, its batch up to date.
            scheduled: how many tokens each request runs, of shape (requests,).
        """
        batch, step = runner.input_batch, self.step
        count = batch.num_reqs
        computed, scheduled = batch.num_computed_tokens_cpu[:count], scheduled[:count]
        starts = reply_starts(batch.token_ids_cpu, computed, scheduled, self.marker)
        if step.ends is not None:
            self._fill_ends(step.ends, batch, runner.requests, computed, scheduled, starts)
        if not starts.any():
            if step.any:
                step.strength.zero_()
                step.any = False
            self.note({})
            return
        each = [strength_of(runner.requests[name].sampling_params, self.config) for name in batch.req_ids[:count]]
        strengths = np.repeat(np.asarray(each, dtype=np.float32), scheduled) * starts
        step.strength.zero_()
        step.strength[: len(strengths)].copy_(torch.from_numpy(strengths))
        step.any = True
        in_prompt = np.clip(batch.num_prompt_tokens[:count] - computed, 0, scheduled)
        begins, last = np.cumsum(scheduled) - scheduled, {}
        for name, begin, size in zip(batch.req_ids[:count], begins, in_prompt, strict=True):
            found = starts[begin : begin + size].nonzero()[0]
            if len(found):
                last[name] = int(begin + found[-1])
        self.note(last)

    def _fill_ends(
        self,
        ends: PromptEndBuffers,
        batch: Any,
        requests: Mapping[str, Any],
        computed: Any,
        scheduled: Any,
        starts: Any,
    ) -> None:
        slots = self._slots_of(batch.req_ids[: len(scheduled)], requests, ends.slots)
        rows, places = step_places(computed, scheduled)
        by_request = (slots, np.cumsum(scheduled) - scheduled, computed, computed + scheduled)
        each = (rows, places, *(np.asarray(values)[rows] for values in by_request))
        row, place, slot, first, begin, end = (torch.from_numpy(values.astype(np.int64)) for values in each)
        found = torch.from_numpy(starts.nonzero()[0])
        step = StepTokens(row, slot, place, first, begin, end)
        ends.fill(torch.from_numpy(batch.token_ids_cpu), step, found, torch.ones(len(found), dtype=torch.bool))

    def _slots_of(self, names: Sequence[str], requests: Mapping[str, Any], count: int) -> list[int]:
        """The slot of each request of a step; if all are taken, the one goes whose turn lies furthest back.

        That is one preempted, which begins anew: twice as many slots as requests run at once hold all that go on.
        """
        stay = {name: slot for name, slot in self._slots.items() if name in requests}
        now = {name: stay.pop(name) for name in names if name in stay}
        for name in (name for name in names if name not in now):
            taken = {*stay.values(), *now.values()}
            free = next((slot for slot in range(count) if slot not in taken), None)
            now[name] = stay.pop(next(iter(stay))) if free is None else free
        self._slots = {**stay, **now}
        return [self._slots[name] for name in names]
