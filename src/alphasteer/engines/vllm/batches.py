"""Each step's tokens: which of them are reply starts, and how strongly their requests are steered."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from alphasteer.engines.vllm.layers import StepBuffers
from alphasteer.engines.vllm.requests import strength_of
from alphasteer.engines.vllm.settings import ServingConfig

FILLER = "_alphasteer_filler"
"""The attribute of a steered vLLM model that holds its ``StepFiller``."""


def reply_starts(tokens: Any, computed: Any, scheduled: Any, marker: Sequence[int]) -> Any:
    """Which of a step's tokens end a marker, of shape (sum of ``scheduled``,).

    Args:
        tokens: every request's tokens so far, those of this step among them, of shape (requests, length).
        computed: how many of them earlier steps ran, of shape (requests,).
        scheduled: how many this step runs, of shape (requests,).
        marker: the reply start's token ids.
    """
    rows = np.repeat(np.arange(len(scheduled)), scheduled)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(scheduled) - scheduled, scheduled)
    places = computed[rows] + within
    found = places >= len(marker) - 1
    for back, token in enumerate(reversed(marker)):
        found &= tokens[rows, np.maximum(places - back, 0)] == token
    return found


class StepFiller:
    """Fills the buffers before each step of vLLM's first model runner."""

    def __init__(self, step: StepBuffers, marker: Sequence[int], config: ServingConfig) -> None:
        self.step, self.marker, self.config = step, tuple(marker), config
        self._last = 0  # the last reply start of the last step that had one

    def fill(self, runner: Any, scheduled: Any) -> None:
        """Write the strengths of this step's tokens.

        Args:
            runner: vLLM's GPUModelRunner, its batch up to date.
            scheduled: how many tokens each request runs, of shape (requests,).
        """
        batch, step = runner.input_batch, self.step
        count = batch.num_reqs
        starts = reply_starts(
            batch.token_ids_cpu, batch.num_computed_tokens_cpu[:count], scheduled[:count], self.marker
        )
        if not starts.any():
            if step.any:
                step.strength.zero_()
                step.any = False
            return
        each = [strength_of(runner.requests[name].sampling_params, self.config) for name in batch.req_ids[:count]]
        strengths = np.repeat(np.asarray(each, dtype=np.float32), scheduled[:count]) * starts
        step.strength.zero_()
        step.strength[: len(strengths)].copy_(torch.from_numpy(strengths))
        step.any, self._last = True, int(starts.nonzero()[0][-1])

    def last_scores(self) -> list[float]:
        """What each gate read at the last reply start of the last step, if that step had one."""
        scores: list[float] = self.step.scores[:, self._last].tolist()
        return scores
