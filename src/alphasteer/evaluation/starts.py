"""What an arm does where replies start: what its gate reads, and how far stream and first token's odds move."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alphasteer.evaluation.arms import Arms
from alphasteer.evaluation.suites import Suite
from alphasteer.models import Decoder, find_decoder, residual_of, weights_digest
from alphasteer.prompts import ChatTemplate, tracked_batches
from alphasteer.replies import PrefilledPrompts
from alphasteer.reporting import LogReporter, Reporter
from alphasteer.resuming import Shelf
from alphasteer.steering import Steering

ROWS, TOKEN_BUDGET = 16, 4096
_BY_ARM = {"divergence": "", "score": "", "opened": "", "shift": "layers", "after": "d"}


@dataclass(frozen=True)
class Starts:
    """One suite's reply starts under one arm, in the order of the prompts.

    Attributes:
        divergence: KL divergence of the arm's first-token distribution from the unsteered one, in nats, (n,).
        score: what the arm's first gate read, (n,).
        opened: how far that gate opened, (n,).
        shift: by layer, how far the residual stream was moved, as a share of its length, (n, layers).
        before, after: the stream at the last layer, unsteered and steered, (n, d).
    """

    divergence: Tensor
    score: Tensor
    opened: Tensor
    shift: Tensor
    before: Tensor
    after: Tensor


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
    same = [weights_digest(model), str(model.dtype)]
    digests = [steering.digest for steering in steerings.values()]
    found: dict[str, dict[str, Starts]] = {}
    for suite in suites if steerings else ():
        sequences = template.render_all(suite.prompts.prompts)
        identity = [*same, sequences, *digests]

        def compute(sequences: Sequence[Sequence[int]] = sequences, name: str = suite.name) -> dict[str, Tensor]:
            return _read(model, tokenizer, sequences, template.reply_start, steerings, f"Reply starts, {name}", report)

        tensors = shelf.tensors("starts", identity, compute)
        found[suite.name] = {
            arm: Starts(before=tensors["before"], **{name: tensors[f"{number}.{name}"] for name in _BY_ARM})
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
    decoder, count = find_decoder(model), len(sequences)
    tensors = {"before": torch.zeros(count, decoder.hidden_size)}
    for number in range(len(steerings)):
        for name, shape in _BY_ARM.items():
            sizes = {"": (), "layers": (len(decoder),), "d": (decoder.hidden_size,)}[shape]
            tensors[f"{number}.{name}"] = torch.zeros(count, *sizes)
    lengths = [len(sequence) for sequence in sequences]
    # A batch at a time: its cache serves every arm, and then goes.
    for rows in report.track(tracked_batches(lengths, TOKEN_BUDGET, ROWS), description, sum(lengths)):
        batch = [sequences[i] for i in rows]
        prompts = {
            reuse: PrefilledPrompts(model, tokenizer, batch, reply_start, LogReporter(), reuse=reuse)
            for reuse in {steering.positions == "reply_start" for steering in steerings.values()}
        }
        plain = {reuse: _run(prefilled, decoder) for reuse, prefilled in prompts.items()}
        tensors["before"][rows] = next(iter(plain.values())).streams[:, -1]
        for number, steering in enumerate(steerings.values()):
            reuse = steering.positions == "reply_start"
            with steering.attach(model) as attached:
                steered, readings = _run(prompts[reuse], decoder), attached.last_gates[0]
            odds, streams = plain[reuse].log_odds, plain[reuse].streams
            moved = (odds.exp() * (odds - steered.log_odds)).sum(-1)
            tensors[f"{number}.divergence"][rows] = moved.clamp(min=0)  # rounding may fall below nothing
            tensors[f"{number}.shift"][rows] = (steered.streams - streams).norm(dim=-1) / streams.norm(dim=-1)
            tensors[f"{number}.after"][rows] = steered.streams[:, -1]
            places = torch.tensor(rows)[torch.tensor(prompts[reuse].batches[0])][readings.rows]
            tensors[f"{number}.score"][places] = readings.scores
            tensors[f"{number}.opened"][places] = readings.values
    return tensors


@dataclass(frozen=True)
class _Run:
    """One forward, in the order of the prompts: the first token's log-probabilities, and every layer's stream."""

    log_odds: Tensor  # (n, vocabulary)
    streams: Tensor  # (n, layers, d)


def _run(prompts: PrefilledPrompts, decoder: Decoder) -> _Run:
    (rows,) = prompts.batches
    with _watched(decoder) as streams:
        log_odds = prompts.first_logits(0).log_softmax(-1).cpu()
    order = torch.tensor(rows).argsort()
    return _Run(log_odds[order], torch.stack(streams, dim=1)[order])


@contextmanager
def _watched(decoder: Decoder) -> Iterator[list[Tensor]]:
    """Collects each layer's input at the last position, of shape (rows, d), after what is attached pushed it."""
    streams: list[Tensor] = []

    def watch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        streams.append(residual_of(args, kwargs)[:, -1].float().cpu())

    handles = [layer.register_forward_pre_hook(watch, with_kwargs=True) for layer in decoder.layers]
    try:
        yield streams
    finally:
        for handle in handles:
            handle.remove()
