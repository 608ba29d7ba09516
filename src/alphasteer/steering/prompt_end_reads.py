"""What a gate reads of a prompt's tokens as they come, and its mean over the prompt's end where the reply starts."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from alphasteer.errors import SteeringError
from alphasteer.prompts import PromptEnd
from alphasteer.steering.positions import PADDING, UNKNOWN, History
from alphasteer.steering.steering import Gate

RAN_BEFORE = "This prompt ran before the steering was attached, and its gate reads the end of it; attach first."


class PromptEndReads:
    """The reads of one gate, remembered on the caches whose tokens they are of.

    A read is linear, so the mean of the reads is what the gate would read of the mean stream.
    """

    def __init__(self, gate: Gate, kept_back: int, prompt_end: PromptEnd) -> None:
        """Nothing is read yet.

        Args:
            gate: reads means over the prompt's end.
            kept_back: how many tokens the reply start has.
            prompt_end: over which tokens.
        """
        self._kept_back, self._prompt_end = kept_back, prompt_end
        # By gate, not by attachment: what one has read of a prompt stands for all that have the same gate.
        self._before = History(f"reads_{_digest(gate)}", unknown=torch.nan)

    def add(self, cache: Any, start: int, reads: Tensor) -> None:
        """Remember a forward's reads, of shape (rows, tokens, k); see ``History.add``."""
        self._before.add(cache, start, reads)

    def means(self, cache: Any, tokens: Tensor, reads: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """The mean read over the prompt's end before each reply start, of shape (n, k); 0 where the user said nothing.

        Args:
            cache: holds what came before, or None.
            tokens: what came before and this forward's ids, ``PADDING`` where nothing attends, of shape (rows, length).
            reads: this forward's, of shape (rows, tokens, k).
            rows, columns: where replies start in this forward, each of shape (n,).

        Raises:
            SteeringError: if some of a prompt ran before this gate was there to read it.
        """
        start = tokens.shape[1] - reads.shape[1]
        whole = torch.cat([self._before.before(cache, start, reads, start), reads], dim=1)
        found = reads.new_zeros(len(rows), reads.shape[-1])
        for number, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
            seen = tokens[row, : start + column + 1]
            real = seen != PADDING
            begin, end = self._span(seen[real].tolist())
            if begin < end:
                found[number] = whole[row, : len(seen)][real.to(whole.device)][begin:end].mean(0)
        if bool(found.isnan().any()):
            raise SteeringError(RAN_BEFORE)
        return found

    def _span(self, tokens: list[int]) -> tuple[int, int]:
        begin, end = self._prompt_end.span(tokens, self._kept_back)
        unknown = next((place + 1 for place in reversed(range(len(tokens))) if tokens[place] == UNKNOWN), 0)
        opened = begin - self._prompt_end.skipped - len(self._prompt_end.opening)
        if opened < unknown and max(0, end - self._prompt_end.most) < unknown:
            raise SteeringError(RAN_BEFORE)  # no opening was found where tokens are known, nor is all of the end
        return begin, end


def _digest(gate: Gate) -> str:
    whole = hashlib.sha256()
    for layer in gate.layers:
        whole.update(f"{layer} {gate.read_outs}".encode())
        whole.update(gate.w[layer].detach().float().cpu().numpy().tobytes())
    return whole.hexdigest()[:16]
