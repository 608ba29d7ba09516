"""Loading a chat model: a Hub id, a folder, or a GGUF file."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from alphasteer.errors import ModelError, first_line

# What transformers, safetensors and torch raise where a model, a package or a device is not there.
LOADING_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, AssertionError, SafetensorError)


def load_model(source: str, device: str = "auto", dtype: str = "auto") -> tuple[Any, Any]:
    """Load a causal language model, in evaluation mode, and its tokenizer.

    Args:
        source: a Hub id, a folder, or the path of a ``.gguf`` file (which is dequantized).
        device: ``auto`` (the accelerator if there is one; several are shared out), ``cpu``, ``cuda:0``, ...
        dtype: ``auto`` (bfloat16 on an accelerator, float32 on a CPU), ``float32``, ``bfloat16`` or ``float16``.

    Returns:
        The model and the tokenizer.

    Raises:
        ModelError: if there is no such model, or it is not a causal language model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    accelerated = torch.cuda.is_available() if device == "auto" else not device.startswith("cpu")
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise ModelError(f"There is no dtype {dtype!r} to load with; use auto, float32, bfloat16 or float16.")
    precision = getattr(torch, ("bfloat16" if accelerated else "float32") if dtype == "auto" else dtype)
    path = Path(source).expanduser()
    where, extra = source, {}
    if path.suffix == ".gguf":
        where, extra = str(path.parent), {"gguf_file": path.name}
    elif path.exists():
        where = str(path)
    placement = "auto" if device == "auto" and accelerated else device.replace("auto", "cpu")
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **extra)
        model = AutoModelForCausalLM.from_pretrained(where, dtype=precision, device_map=placement, **extra)
    except LOADING_ERRORS as error:
        raise ModelError(f"{source} cannot be loaded as a causal language model: {first_line(error)}") from error
    if extra:
        model.config.name_or_path = str(path)  # transformers notes the folder, which no longer says which file it was
    model.eval()  # type: ignore[no-untyped-call]
    return model, tokenizer


def context_length(model: Any) -> int | None:
    """How many tokens the model was made for, or None where its config does not say."""
    text = model.config.get_text_config(decoder=True)
    length = getattr(text, "max_position_embeddings", None)
    return int(length) if length else None
