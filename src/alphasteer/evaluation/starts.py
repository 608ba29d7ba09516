"""What an arm does where replies start: what its gate reads, and how far the first token's odds move."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alphasteer.evaluation.evaluating import Arms
from alphasteer.evaluation.suites import Suite
from alphasteer.prompts import ChatTemplate, tracked_batches
from alphasteer.replies import PrefilledPrompts
from alphasteer.reporting import LogReporter, Reporter
from alphasteer.resuming import Shelf
from alphasteer.steering import Steering

ROWS, TOKEN_BUDGET = 16, 4096


@dataclass(frozen=True)
class Starts:
    """One suite's reply starts under one arm, in the order of the prompts.

    Attributes:
        divergence: KL divergence of the arm's first-token distribution from the unsteered one, in nats, (n,).
        score: what the arm's first gate read, (n,).
        opened: how far that gate opened, (n,).
    """

    divergence: Tensor
    score: Tensor
    opened: Tensor


AllStarts = Mapping[str, Mapping[str, Starts]]
"""By suite and arm."""


def read_starts(
    model: Any, tokenizer: Any, suites: Sequence[Suite], arms: Arms, report: Reporter, *, shelf: Shelf
) -> AllStarts:
    """Reply starts by suite and arm, for every arm that steers.

    Kept on the shelf suite by suite; an interrupted reading goes on where it stopped.
    """
    template = ChatTemplate(tokenizer)
    steerings = {arm: steering for arm, steering in arms.items() if steering is not None}
    found: dict[str, dict[str, Starts]] = {}
    for suite in suites:
        sequences = template.render_all(suite.prompts.prompts)
        base = [str(model.config._name_or_path), str(model.dtype), sequences]
        identity = [*base, *(steering.digest for steering in steerings.values())]

        def compute(sequences: Sequence[Sequence[int]] = sequences, name: str = suite.name) -> dict[str, Tensor]:
            return _read(model, tokenizer, sequences, template.reply_start, steerings, f"Reply starts, {name}", report)

        tensors = shelf.tensors("starts", identity, compute)
        found[suite.name] = {
            arm: Starts(*(tensors[f"{number}.{name}"] for name in ("divergence", "score", "opened")))
            for number, arm in enumerate(steerings)
        }
    return found


def _read(
    model: Any,
    tokenizer: Any,
    sequences: Sequence[Sequence[int]],
    reply_start: Sequence[int],
    steerings: Mapping[str, Steering],
    description: str,
    report: Reporter,
) -> dict[str, Tensor]:
    tensors = {
        f"{number}.{name}": torch.zeros(len(sequences))
        for number in range(len(steerings))
        for name in ("divergence", "score", "opened")
    }
    lengths = [len(sequence) for sequence in sequences]
    # A batch at a time: its cache serves every arm, and then goes.
    for rows in report.track(tracked_batches(lengths, TOKEN_BUDGET, ROWS), description, sum(lengths)):
        batch = [sequences[i] for i in rows]
        prompts = {
            reuse: PrefilledPrompts(model, tokenizer, batch, reply_start, LogReporter(), reuse=reuse)
            for reuse in {steering.positions == "reply_start" for steering in steerings.values()}
        }
        plain = {reuse: _log_odds(prefilled) for reuse, prefilled in prompts.items()}
        for number, steering in enumerate(steerings.values()):
            reuse = steering.positions == "reply_start"
            with steering.attach(model) as attached:
                steered, readings = _log_odds(prompts[reuse]), attached.last_gates[0]
            moved = (plain[reuse].exp() * (plain[reuse] - steered)).sum(-1)
            tensors[f"{number}.divergence"][rows] = moved.clamp(min=0)  # rounding may fall below nothing
            places = torch.tensor(rows)[torch.tensor(prompts[reuse].batches[0])][readings.rows]
            tensors[f"{number}.score"][places] = readings.scores
            tensors[f"{number}.opened"][places] = readings.values
    return tensors


def _log_odds(prompts: PrefilledPrompts) -> Tensor:
    """Log-probabilities of the first token, of shape (n, vocabulary), in the order of the prompts."""
    (rows,) = prompts.batches
    logits = prompts.first_logits(0).log_softmax(-1).cpu()
    return torch.empty_like(logits).index_copy_(0, torch.tensor(rows), logits)
