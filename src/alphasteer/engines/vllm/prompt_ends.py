"""Means over prompts' ends inside vLLM, where a prompt comes in pieces: what was read of its last tokens is kept.

A read is linear, so the mean of the reads is what a gate would read of the mean stream. Kept are, of every request,
the reads of as many tokens as the furthest one lies back from its reply start.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alphasteer.prompts import PromptEnd


@dataclass(frozen=True)
class StepTokens:
    """Where each token of a step stands, all of shape (tokens,).

    Attributes:
        row: the row of the table of tokens in which its request stands.
        slot: the request's slot, its own for as long as it lives.
        place: its place in the request.
        first: the step's index of the request's first token in this step.
        begin, end: which of the request's places this step runs.
    """

    row: Tensor
    slot: Tensor
    place: Tensor
    first: Tensor
    begin: Tensor
    end: Tensor


class PromptEndBuffers(nn.Module):
    """One step's reads of all tokens and those kept of earlier steps, by push.

    Allocated once, so that captured graphs see every step's content.
    """

    reads: Tensor
    kept: Tensor
    index: Tensor
    weight: Tensor
    starts: Tensor
    keep: Tensor

    def __init__(
        self,
        read_outs: Sequence[int],
        prompt_end: PromptEnd,
        kept_back: int,
        period: int,
        most_tokens: int,
        slots: int,
        device: torch.device,
    ) -> None:
        """Nothing is read yet.

        Args:
            read_outs: how many each push has.
            kept_back: how many tokens the reply start has.
            period: how many tokens two reply starts lie apart at least.
            most_tokens: in one step, with padding.
            slots: how many requests' reads are kept.
        """
        super().__init__()
        self.slots = slots
        self.prompt_end, self.kept_back = prompt_end, kept_back
        self.span = reach(prompt_end, kept_back)
        self._nowhere = slots * self.span
        pushes, most = len(read_outs), max(read_outs)
        # One reply start ends in every so many tokens at most, and one may have begun in the step before.
        windows = most_tokens // period + slots
        buffers = {
            "reads": torch.zeros(pushes, most_tokens, most),
            "kept": torch.zeros(pushes, self._nowhere + 1, most),
            "index": torch.zeros(windows, prompt_end.most, dtype=torch.long),
            "weight": torch.zeros(windows, prompt_end.most),
            "starts": torch.zeros(windows, dtype=torch.long),
            "keep": torch.full((most_tokens,), self._nowhere),
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer.to(device), persistent=False)

    def fill(self, tokens: Tensor, step: StepTokens, starts: Tensor, valid: Tensor) -> None:
        """Say before a step what is to be averaged, and what to be kept.

        Args:
            tokens: every request's tokens so far, those of this step among them, of shape (rows, length).
            step: where this step's tokens stand.
            starts: the step's index of each reply start, of shape (n,).
            valid: which of these are any, of shape (n,).
        """
        row, slot, begin, first = step.row[starts], step.slot[starts], step.begin[starts], step.first[starts]
        places, weight = window(tokens, row, step.place[starts], self.kept_back, self.prompt_end)
        here = self.kept.shape[1] + first[:, None] + places - begin[:, None]
        before = slot[:, None] * self.span + places % self.span
        count = len(starts)
        self.weight.zero_()
        self.starts.zero_()
        self.index[:count] = torch.where(weight > 0, torch.where(places >= begin[:, None], here, before), 0)
        self.weight[:count] = weight * valid[:, None]
        self.starts[:count] = starts * valid
        self.keep.fill_(self._nowhere)
        last = step.place >= step.end - self.span
        self.keep[: len(last)] = torch.where(last, step.slot * self.span + step.place % self.span, self._nowhere)

    def add(self, push: int, reads: Tensor, first: bool) -> None:
        """Add one layer's reads of all tokens, of shape (tokens, k), to those of the layers below, if any."""
        count, width = reads.shape
        self.reads[push, :count, :width] = reads if first else reads + self.reads[push, :count, :width]

    def with_means(self, push: int, reads: Tensor) -> Tensor:
        """What was read at every token, of shape (tokens, k), with the means added where replies start; last, keep."""
        count, width = reads.shape
        known = torch.cat([self.kept[push, :, :width], self.reads[push, :, :width]])
        weight = self.weight[..., None]  # rows that pad a captured step may hold what is no number
        means = (torch.where(weight > 0, known[self.index], 0.0) * weight).sum(1)
        self.kept[push, self.keep[:count], :width] = self.reads[push, :count, :width]
        return reads.index_add(0, self.starts, means)


def reach(prompt_end: PromptEnd, kept_back: int) -> int:
    """How many tokens before a reply is the first one that counts for a mean."""
    return prompt_end.most + prompt_end.closing + kept_back


def period(marker: Sequence[int]) -> int:
    """How many tokens two occurrences of a marker lie apart at least: they may overlap."""
    return next(n for n in range(1, len(marker) + 1) if list(marker[n:]) == list(marker[: len(marker) - n]))


def window(
    tokens: Tensor, rows: Tensor, places: Tensor, kept_back: int, prompt_end: PromptEnd
) -> tuple[Tensor, Tensor]:
    """``PromptEnd.span`` of many reply starts at once, and without waiting for a device.

    Args:
        tokens: of shape (rows, length).
        rows: in which row each reply start stands, of shape (n,).
        places: where there, of shape (n,).

    Returns:
        The places of each one's last tokens and their weights in the mean, 0 for those that do not count; (n, most).
    """
    most, width = prompt_end.most, len(prompt_end.opening) + prompt_end.skipped
    end = (places + 1 - kept_back - prompt_end.closing).clamp(min=0)
    found = (end - most)[:, None] + torch.arange(most + 1, device=tokens.device)
    rows, opened = rows[:, None], found >= width
    for number, token in enumerate(prompt_end.opening):
        opened &= tokens[rows, (found - width + number).clamp(min=0)] == token
    numbers = torch.arange(most + 1, device=tokens.device)
    last = torch.where(opened, numbers, -1).amax(1, keepdim=True)
    at = found[:, :most]
    alike = (tokens[rows, at.clamp(min=0)] == tokens[rows, 0]) | (at < 0)
    counts = torch.where(last >= 0, numbers[:most] >= last, alike.long().cumprod(1) == 0)
    counts &= (at >= 0) & (at < end[:, None])
    return at.clamp(min=0), counts / counts.sum(1, keepdim=True).clamp(min=1)
