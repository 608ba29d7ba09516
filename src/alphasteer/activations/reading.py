"""Reading the residual stream of many prompts, at their ends and on average, running no more than that needs."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from alphasteer.models import Decoder, residual_of, shareable_cache
from alphasteer.prompts import by_beginning, pad, tracked_batches
from alphasteer.reporting import Reporter

TOKEN_BUDGET = 2048
"""Padded tokens a batch: enough to keep a CPU busy, little enough for any accelerator."""


Streams = Mapping[int, Tensor]
"""By layer, what was read there."""


class _LastLayerRead(Exception):
    """Raised in the last layer of interest: the layers above and the vocabulary's logits need not be computed."""


@torch.inference_mode()
def read_residual_stream(
    model: Any,
    decoder: Decoder,
    sequences: Sequence[Sequence[int]],
    layers: Sequence[int],
    report: Reporter,
    *,
    spans: Sequence[tuple[int, int]] | None = None,
    token_budget: int = TOKEN_BUDGET,
    description: str = "Reading activations",
) -> dict[int, Tensor]:
    """The residual stream at each sequence's last token, at the input of each of the layers.

    With spans, its mean over the tokens of the sequence's span stands beside it (zeros where that is empty).

    What sequences share at their beginning (the template's head, a chat before) runs once, layers above the highest
    one asked for do not run, and batches hold prompts of like length.

    Args:
        sequences: token ids, one list a prompt, each ending at its reply start.
        layers: which decoder layers' inputs to read.
        spans: by sequence, the first of its tokens that count for the mean, and the one after the last.

    Returns:
        By layer, float32 activations of shape (n, d), with spans (n, 2 d), on the CPU, in the order of the sequences.
    """
    wanted, device = sorted(set(layers)), decoder.device
    width = decoder.hidden_size * (1 if spans is None else 2)
    result = {layer: torch.empty(len(sequences), width) for layer in wanted}
    groups = [(0, list(range(len(sequences))))] if shareable_cache(model) is None else by_beginning(sequences)

    def batches() -> Iterator[tuple[tuple[list[int], int, Any], int]]:
        for shared, rows in groups:
            needed = wanted if spans is not None else wanted[-1:]
            prefix = _read_prefix(model, decoder, sequences[rows[0]][:shared], needed) if shared else None
            for batch, tokens in tracked_batches([len(sequences[i]) - shared for i in rows], token_budget):
                yield ([rows[i] for i in batch], shared, prefix), tokens

    total = sum(len(sequences[i]) - shared for shared, rows in groups for i in rows)
    for batch, shared, prefix in report.track(batches(), description, total):
        ids, mask = pad([sequences[i][shared:] for i in batch], side="right")
        inputs: dict[str, Any] = {"input_ids": ids.to(device), "use_cache": False}
        if prefix is not None:
            cache = copy.deepcopy(prefix[0])
            cache.batch_repeat_interleave(len(batch))
            mask = torch.cat([mask.new_ones(len(batch), shared), mask], dim=1)
            inputs |= {"past_key_values": cache, "use_cache": True}
        last = torch.tensor([len(sequences[i]) - shared - 1 for i in batch], device=device)
        places = None if spans is None else torch.tensor([spans[i] for i in batch], device=device)
        read = partial(_read, last=last, places=places, before={} if prefix is None else prefix[1])
        streams = _run(model, decoder, {**inputs, "attention_mask": mask.to(device)}, wanted, read)
        for layer, stream in streams.items():
            result[layer][batch] = stream.cpu()
    return result


def _read_prefix(model: Any, decoder: Decoder, ids: Sequence[int], layers: Sequence[int]) -> tuple[Any, Streams]:
    """The cache of a shared beginning and its streams; only for models whose cache can be shared out over rows."""
    cache, device = shareable_cache(model), decoder.device
    inputs = {"input_ids": torch.tensor([list(ids)], device=device), "past_key_values": cache, "use_cache": True}
    return cache, _run(model, decoder, inputs, layers, lambda _, hidden: hidden[0].clone())


def _read(layer: int, hidden: Tensor, last: Tensor, places: Tensor | None, before: Streams) -> Tensor:
    """Each row's stream at its last token and, with places, its mean over these, float32; (rows, d) or (rows, 2 d)."""
    at_end = hidden[torch.arange(len(hidden), device=hidden.device), last.to(hidden.device)].float()
    if places is None:
        return at_end
    return torch.cat([at_end, _means(hidden, places.to(hidden.device), before.get(layer))], dim=1)


def _means(hidden: Tensor, places: Tensor, before: Tensor | None) -> Tensor:
    """Means over each row's span, part of which may lie in what the rows share, float32.

    Args:
        hidden: the rows' own streams, of shape (rows, tokens, d).
        places: where each span begins and ends, counted from the whole sequence's beginning, of shape (rows, 2).
        before: the streams of what they share, of shape (tokens, d).
    """
    begins, ends = places[:, :1], places[:, 1:]
    shared = 0 if before is None else len(before)

    def total(streams: Tensor, first: int) -> Tensor:
        at = torch.arange(first, first + streams.shape[-2], device=streams.device)
        inside = ((at >= begins) & (at < ends)).float()[:, None]
        return torch.matmul(inside, streams.float()).squeeze(1)

    found = total(hidden, shared)
    if before is not None:
        found = found + total(before.to(hidden.device), 0)
    return found / (ends - begins).clamp(min=1)


def _run(
    model: Any,
    decoder: Decoder,
    inputs: dict[str, Any],
    layers: Sequence[int],
    read: Callable[[int, Tensor], Tensor],
) -> Streams:
    """One forward up to the highest layer; by layer, what ``read`` makes of its input, of shape (rows, tokens, d)."""
    streams: dict[int, Tensor] = {}

    def reader(layer: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            streams[layer] = read(layer, residual_of(args, kwargs))
            if layer == layers[-1]:
                raise _LastLayerRead

        return hook

    handles = [decoder.layers[n].register_forward_pre_hook(reader(n), with_kwargs=True) for n in layers]
    try:
        model(**inputs)
    except _LastLayerRead:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return streams
