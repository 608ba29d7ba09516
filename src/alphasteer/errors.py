"""What can go wrong, by room. Every message is one sentence: what is wrong, and what to do about it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class AlphaSteerError(Exception):
    """Base of every error that AlphaSteer raises on purpose; the command line prints it and exits with 1."""


class PromptError(AlphaSteerError):
    """A prompt source cannot be read, is empty, or contradicts another one."""


class ModelError(AlphaSteerError):
    """A model cannot be loaded, or is not a decoder-only chat model that can be steered."""


class SteeringError(AlphaSteerError):
    """A steering does not fit the model, or its file is damaged, foreign or newer than this version."""


class LearningError(AlphaSteerError):
    """Nothing can be learned from these activations: too few, one class only, or not finite."""


class ReplyError(AlphaSteerError):
    """A reply cannot be generated as asked, or a folder holds replies made under other conditions."""


class EvaluationError(AlphaSteerError):
    """A suite cannot be evaluated as it stands."""


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says first; its kind, if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def first_problem(error: "ValidationError", whole: str) -> tuple[str, str]:
    """The first thing that is wrong with given values: where, and what.

    Args:
        whole: what to name where no single value is wrong.
    """
    first = error.errors()[0]
    return ".".join(map(str, first["loc"])) or whole, first["msg"]
