"""An artefact together with the model that it was fitted on."""

from typing import Any

import torch

from alphasteer.errors import SteeringError
from alphasteer.models import fingerprint, load_model
from alphasteer.steering.steering import Steering

FARTHEST = 0.1
"""A gate's score of the artefact's test prompt may lie so far from the stored one, as a share of it and at least of 1:
loading precisions move it by less."""


def load_steered(
    source: str, model: str | None = None, device: str = "auto", dtype: str = "auto", *, tested: bool = True
) -> tuple[Steering, Any, Any]:
    """The steering, and the model and tokenizer it was fitted on; nothing is attached yet.

    Args:
        source: the artefact: a folder, or a repository on the Hub.
        model: where the model lies, if no longer where the steering was fitted on it.
        tested: the gates must read what they read when it was fitted; not so where they are to be calibrated anew.

    Raises:
        SteeringError: if the model, its tokenizer or its chat template is another one.
    """
    steering = Steering.from_pretrained(source)
    loaded, tokenizer = load_model(base_model(steering, source, model), device, dtype)
    check_belongs(steering, loaded, tokenizer, source, tested=tested)
    return steering, loaded, tokenizer


def base_model(steering: Steering, source: str, model: str | None = None) -> str:
    """Where the model lies: where it is said to, or else where the steering was fitted on it.

    Raises:
        SteeringError: if neither is known.
    """
    if model:
        return model
    if steering.fitted_on is None:
        raise SteeringError(f"{source} does not say which model it belongs to; name it with --model.")
    return steering.fitted_on.model_id


def check_belongs(steering: Steering, model: Any, tokenizer: Any, source: str, *, tested: bool = True) -> None:
    """Refuse another model, tokenizer or chat template than the steering's.

    Merged adapters and ablated directions leave a fingerprint as it is: what the gates read tells them.

    Raises:
        SteeringError: naming in what they differ.
    """
    if steering.fitted_on is None:
        return
    differences = steering.fitted_on.differences(fingerprint(model, tokenizer))
    if differences:
        raise SteeringError(
            f"{source} was fitted on {steering.fitted_on.model_id}, and {model.config._name_or_path} differs: "
            f"{'; '.join(differences)}; fit a steering for it."
        )
    test = steering.record.get("self_test")
    if test is None or not tested:
        return
    for found, wanted in zip(_scores(steering, model, test["tokens"]), test["scores"], strict=True):
        if not agree(found, wanted, FARTHEST):
            raise SteeringError(
                f"A gate of {source} reads {found:.3f} of its test prompt where {wanted:.3f} is right: this model's "
                "weights are others; fit a steering for it, or calibrate this one if they are but quantized."
            )


def agree(found: float, wanted: float, share: float) -> bool:
    """Whether a score of the test prompt is within a share of the stored one, and at least of 1; NaN never is."""
    return abs(found - wanted) <= share * max(1.0, abs(wanted))


@torch.inference_mode()
def _scores(steering: Steering, model: Any, tokens: list[int]) -> list[float]:
    with steering.attach(model, strength=0.0) as attached:  # as the test was read: before anything is pushed
        model(input_ids=torch.tensor([tokens], device=model.device))
        return [float(reading.scores[-1]) for reading in attached.last_gates]
