"""What a steering was fitted on, so that it is never attached to anything else."""

import hashlib
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from alphasteer.models.decoder import find_decoder
from alphasteer.prompts import ChatTemplate

SAMPLED = 256
"""About so many values of a parameter, evenly spaced, stand for all of it on a shelf."""


class Fingerprint(BaseModel):
    """A model and its tokenizer in a few comparable words.

    Attributes:
        model_id: the name or folder it was loaded from; for people, never compared.
        architecture, hidden_size, layers, vocabulary: from the config.
        weights: SHA-256 of the trunk's one-dimensional parameters (norms, biases) in bfloat16; these survive
            every loading precision and weight-only quantization, and differ between models that were trained on.
            Merged adapters and ablated directions change matrices alone: what gates read tells (``check_belongs``).
        tokenizer: SHA-256 of the vocabulary.
        chat_template: SHA-256 of the template's text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_id: str
    architecture: str
    hidden_size: int
    layers: int
    vocabulary: int
    weights: str
    tokenizer: str
    chat_template: str

    def differences(self, other: "Fingerprint") -> list[str]:
        """In words, everything in which the other one differs; empty if they fit."""
        return [
            f"{name} is {getattr(other, name)} instead of {getattr(self, name)}"
            for name in type(self).model_fields
            if name != "model_id" and getattr(self, name) != getattr(other, name)
        ]


def fingerprint(model: Any, tokenizer: Any) -> Fingerprint:
    """The fingerprint of a loaded model and its tokenizer."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return Fingerprint(
        model_id=str(model.config._name_or_path or type(model).__name__),
        **model_fields(model),
        tokenizer=hashlib.sha256(repr(vocabulary).encode()).hexdigest(),
        chat_template=ChatTemplate(tokenizer).digest,
    )


def model_fields(model: Any) -> dict[str, Any]:
    """The fields of a fingerprint that the model alone decides."""
    decoder = find_decoder(model)
    return {
        "architecture": type(getattr(model, "_orig_mod", model)).__name__,
        "hidden_size": decoder.hidden_size,
        "layers": len(decoder),
        "vocabulary": decoder.vocabulary,
        "weights": _weights_digest(model),
    }


def loaded_digest(model: Any) -> str:
    """What tells a model's results on a shelf from another's: some values of every parameter as it is loaded."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.device.type != "meta":
            values = parameter.detach().flatten()
            sample = values[:: max(1, len(values) // SAMPLED)].to("cpu").contiguous()
            digest.update(f"{name} {sample.dtype}".encode())
            digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _weights_digest(model: Any) -> str:
    digest = hashlib.sha256()
    for name, parameter in find_decoder(model).trunk.named_parameters():
        if parameter.ndim == 1 and parameter.device.type != "meta":
            digest.update(name.encode())
            digest.update(parameter.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()
