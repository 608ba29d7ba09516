"""Reading the residual stream at the end of many prompts, running no more of the model than that needs."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alphasteer.models import Decoder, residual_of, shareable_cache
from alphasteer.prompts import by_beginning, pad, tracked_batches
from alphasteer.reporting import Reporter

TOKEN_BUDGET = 2048
"""Padded tokens a batch: enough to keep a CPU busy, little enough for any accelerator."""


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
    token_budget: int = TOKEN_BUDGET,
    description: str = "Reading activations",
) -> dict[int, Tensor]:
    """The residual stream at each sequence's last token, at the input of each of the layers.

    What sequences share at their beginning (the template's head, a chat before) runs once, layers above the highest
    one asked for do not run, and batches hold prompts of like length.

    Args:
        sequences: token ids, one list a prompt, each ending at its reply start.
        layers: which decoder layers' inputs to read.

    Returns:
        By layer, float32 activations of shape (n, d) on the CPU, in the order of the sequences.
    """
    wanted, device = sorted(set(layers)), decoder.device
    result = {layer: torch.empty(len(sequences), decoder.hidden_size) for layer in wanted}
    groups = [(0, list(range(len(sequences))))] if shareable_cache(model) is None else by_beginning(sequences)

    def batches() -> Iterator[tuple[tuple[list[int], int, Any], int]]:
        for shared, rows in groups:
            prefix = _read_prefix(model, decoder, sequences[rows[0]][:shared], wanted[-1]) if shared else None
            for batch, tokens in tracked_batches([len(sequences[i]) - shared for i in rows], token_budget):
                yield ([rows[i] for i in batch], shared, prefix), tokens

    total = sum(len(sequences[i]) - shared for shared, rows in groups for i in rows)
    for batch, shared, prefix in report.track(batches(), description, total):
        ids, mask = pad([sequences[i][shared:] for i in batch], side="right")
        inputs: dict[str, Any] = {"input_ids": ids.to(device), "use_cache": False}
        if prefix is not None:
            cache = copy.deepcopy(prefix)
            cache.batch_repeat_interleave(len(batch))
            mask = torch.cat([mask.new_ones(len(batch), shared), mask], dim=1)
            inputs |= {"past_key_values": cache, "use_cache": True}
        last = torch.tensor([len(sequences[i]) - shared - 1 for i in batch], device=device)
        streams = _run(model, decoder, {**inputs, "attention_mask": mask.to(device)}, wanted, last)
        for layer, stream in streams.items():
            result[layer][batch] = stream.float().cpu()
    return result


def _read_prefix(model: Any, decoder: Decoder, ids: Sequence[int], highest: int) -> Any:
    """The cache of a shared beginning; only for models whose cache can be shared out over rows."""
    cache, device = shareable_cache(model), decoder.device
    inputs = {"input_ids": torch.tensor([list(ids)], device=device), "past_key_values": cache, "use_cache": True}
    _run(model, decoder, inputs, [highest], torch.tensor([0], device=device))
    return cache


def _run(
    model: Any, decoder: Decoder, inputs: dict[str, Any], layers: Sequence[int], last: Tensor
) -> dict[int, Tensor]:
    """One forward up to the highest layer; each layer's input at token ``last[row]`` of every row."""
    streams: dict[int, Tensor] = {}

    def reader(layer: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = residual_of(args, kwargs)
            rows = torch.arange(hidden.shape[0], device=hidden.device)
            streams[layer] = hidden[rows, last.to(hidden.device)]
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
