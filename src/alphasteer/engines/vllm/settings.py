"""What an operator decides, carried to every vLLM process by ``--additional-config``."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alphasteer.errors import SteeringError, first_problem
from alphasteer.steering import Steering

LOAD_FORMAT = "alphasteer"
KEY = "alphasteer"
"""Of the settings in ``additional_config``, which vLLM hashes into the key of its compile cache."""
STRENGTH = "alphasteer_strength"
"""Of a request's own strength in ``vllm_xargs``."""
GATES = "alphasteer_gates"
"""Of the wish, in ``vllm_xargs``, to be told what the gates read."""


class ServingConfig(BaseModel):
    """One artefact and what requests may ask of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str = Field(description="The artefact: a folder, or a repository on the Hub.")
    digest: str = Field(description="Its digest: compiled code and cached blocks of another one are never taken.")
    strength: float = Field(1.0, description="A factor on the fitted strength, for requests that do not say.")
    allow_strength: bool = Field(False, description="Requests may set their own strength.")
    highest_strength: float = Field(1.5, gt=0, description="Strengths of requests are clamped to 0 .. this.")
    most_tokens: int | None = Field(None, ge=1, description="Length of a reply at most; None: what the context leaves.")


def additional_config(config: ServingConfig) -> dict[str, Any]:
    """What ``--additional-config`` takes."""
    return {KEY: config.model_dump()}


def read_config(vllm_config: Any) -> ServingConfig:
    """The settings in a vLLM configuration.

    Raises:
        SteeringError: if they are missing or wrong.
    """
    given = (vllm_config.additional_config or {}).get(KEY)
    if given is None:
        raise SteeringError(
            f"--load-format {LOAD_FORMAT} needs its settings in --additional-config under {KEY!r}; "
            "alphasteer serve fills them in."
        )
    try:
        return ServingConfig.model_validate(given)
    except ValidationError as error:
        where, problem = first_problem(error, KEY)
        raise SteeringError(f"--additional-config, {where}: {problem}.") from error


def check_digest(steering: Steering, config: ServingConfig) -> None:
    """Refuse another artefact than the one whose digest keys vLLM's caches.

    Raises:
        SteeringError: if it is another one.
    """
    if steering.digest != config.digest:
        raise SteeringError(f"{config.folder} is not the artefact that this engine was configured for; start it anew.")


def is_steered(vllm_config: Any) -> bool:
    """Whether this engine is to be steered: the plug-in leaves every other one alone."""
    return str(vllm_config.load_config.load_format) == LOAD_FORMAT
