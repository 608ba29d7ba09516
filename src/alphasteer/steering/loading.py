"""An artefact together with the model that it was fitted on."""

from typing import Any

from alphasteer.errors import SteeringError
from alphasteer.models import fingerprint, load_model
from alphasteer.steering.steering import Steering


def load_steered(
    source: str, model: str | None = None, device: str = "auto", dtype: str = "auto"
) -> tuple[Steering, Any, Any]:
    """The steering, and the model and tokenizer it was fitted on; nothing is attached yet.

    Args:
        source: the artefact: a folder, or a repository on the Hub.
        model: where the model lies, if no longer where the steering was fitted on it.

    Raises:
        SteeringError: if the model, its tokenizer or its chat template is another one.
    """
    steering = Steering.from_pretrained(source)
    loaded, tokenizer = load_model(base_model(steering, source, model), device, dtype)
    check_belongs(steering, loaded, tokenizer, source)
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


def check_belongs(steering: Steering, model: Any, tokenizer: Any, source: str) -> None:
    """Refuse another model, tokenizer or chat template than the steering's.

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
