"""Finding a model's decoder layers by structure, and proving that they are where the residual stream runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alphasteer.errors import ModelError


@dataclass(frozen=True)
class Decoder:
    """Where a causal language model is read and steered.

    Attributes:
        embedding: turns token ids into the first residual stream.
        trunk: the module that runs the layers; its forward gets the key-value cache.
        layers: the decoder layers in order; the residual stream of layer l is the first input of ``layers[l]``.
        hidden_size: d, the residual stream's width.
    """

    embedding: nn.Module
    trunk: nn.Module
    layers: tuple[nn.Module, ...]
    hidden_size: int

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        return next(self.embedding.parameters()).device

    @property
    def vocabulary(self) -> int:
        """How many tokens the model knows."""
        return int(next(self.embedding.parameters()).shape[0])


def find_decoder(model: Any) -> Decoder:
    """Find the decoder layers: the one outermost list of equal modules as long as the text config says.

    Raises:
        ModelError: if the model is an encoder, has no such list, or has several.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    config = getattr(model, "config", None)
    if config is None:
        raise ModelError(f"{type(model).__name__} has no config; load a Hugging Face causal language model.")
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{type(model).__name__} is an encoder-decoder; only decoder-only chat models can be steered.")
    text = config.get_text_config(decoder=True)
    found = layer_lists(model, text.num_hidden_layers)
    if len(found) > 1:  # a vision tower of equal depth, say: the decoder is what stands beside the text embedding
        found = {name: layers for name, layers in found.items() if _beside_embedding(model, name)}
    if len(found) != 1:
        raise ModelError(
            f"{type(model).__name__} has {len(found)} lists of {text.num_hidden_layers} layers where one was expected; "
            "this architecture cannot be steered."
        )
    ((name, layers),) = found.items()
    return Decoder(
        model.get_input_embeddings(), model.get_submodule(name.rpartition(".")[0]), tuple(layers), text.hidden_size
    )


def layer_lists(model: nn.Module, count: int) -> dict[str, nn.ModuleList]:
    """By name, a model's outermost lists of ``count`` modules: its decoder layers are one of them."""
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        nested = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) == count and not nested:
            found[name] = module
    return found


def _beside_embedding(model: Any, name: str) -> bool:
    trunk = model.get_submodule(name.rpartition(".")[0])
    return any(module is model.get_input_embeddings() for module in trunk.modules())


def residual_of(args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """The residual stream among a decoder layer's inputs, of shape (rows, tokens, d)."""
    hidden = args[0] if args else kwargs.get("hidden_states")
    if not isinstance(hidden, Tensor) or hidden.ndim != 3:
        raise ModelError("A decoder layer got no hidden states of shape (rows, tokens, d); it cannot be steered.")
    return hidden


def with_residual(
    hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same layer inputs with another residual stream."""
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


@torch.inference_mode()
def check_decoder(model: Any, decoder: Decoder) -> None:
    """Prove by a few tiny forwards that pushing a layer's input does what the method needs.

    Checked: every layer runs once and in order; the stream has width d; a layer's input is the output of the one
    before; adding zero changes nothing; a push at layer l leaves earlier layers alone, reaches layer l + 1 and
    the logits; and a later token never reaches an earlier position (a causal decoder, not an encoder).

    Raises:
        ModelError: naming the first of these that fails.
    """
    name, middle = type(model).__name__, len(decoder) // 2
    ids = (torch.arange(1, 7, device=decoder.device) * 7 % decoder.vocabulary)[None]
    changed = ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % decoder.vocabulary

    order, streams, logits = _trace(model, decoder, ids)
    if order != list(range(len(decoder))):
        raise ModelError(f"{name} does not run its layers once each and in order; it cannot be steered.")
    if any(stream.shape != (1, 6, decoder.hidden_size) for stream in streams):
        raise ModelError(f"{name}'s residual stream is not of shape (rows, tokens, {decoder.hidden_size}).")
    _, same, same_logits = _trace(model, decoder, ids, push=(middle, 0.0))
    if not all(torch.equal(a, b) for a, b in zip(streams, same, strict=True)) or not torch.equal(logits, same_logits):
        raise ModelError(f"{name} does not repeat itself: steering by zero changed it; call model.eval() first.")
    _, pushed, pushed_logits = _trace(model, decoder, ids, push=(middle, 1.0))
    below = all(torch.equal(a, b) for a, b in zip(streams[:middle], pushed[:middle], strict=True))
    above = all(not torch.equal(a, b) for a, b in zip(streams[middle + 1 :], pushed[middle + 1 :], strict=True))
    if not below or not above or torch.equal(logits, pushed_logits):
        raise ModelError(f"{name}: a push at layer {middle} does not reach exactly what follows; it cannot be steered.")
    _, other, _ = _trace(model, decoder, changed)
    if not all(_close(a[:, :-1], b[:, :-1]) for a, b in zip(streams, other, strict=True)):
        raise ModelError(
            f"{name} lets later tokens reach earlier ones (an encoder?); only causal decoders can be steered."
        )


def _close(a: Tensor, b: Tensor) -> bool:
    # Not torch.equal: a mixture of experts groups tokens, so another token may change the order of a sum.
    return bool((a - b).abs().max() <= 8 * torch.finfo(a.dtype).eps * a.abs().max())


def _trace(
    model: Any, decoder: Decoder, ids: Tensor, push: tuple[int, float] | None = None
) -> tuple[list[int], list[Tensor], Tensor]:
    """Run once: the order in which layers ran, each layer's input, the logits; perhaps with one push."""
    order: list[int] = []
    streams: list[Tensor] = []

    def recorder(index: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = residual_of(args, kwargs)
            if push is not None and push[0] == index:
                hidden = hidden + push[1] * torch.linspace(-1, 1, hidden.shape[-1]).to(hidden)
            order.append(index)
            streams.append(hidden.clone())
            return with_residual(hidden, args, kwargs)

        return hook

    handles = [
        layer.register_forward_pre_hook(recorder(index), with_kwargs=True) for index, layer in enumerate(decoder.layers)
    ]
    try:
        output = model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    if getattr(output, "logits", None) is None or output.logits.ndim != 3:
        raise ModelError(f"{type(model).__name__} gives no next-token logits; load it with AutoModelForCausalLM.")
    return order, streams, output.logits
