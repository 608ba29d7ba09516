"""What both servers say alike, vLLM's and the small one: the field ``alphasteer``, refusals, the page at ``/``."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict, FiniteFloat

from alphasteer.steering import Steering


class Wishes(BaseModel):
    """The field ``alphasteer`` of a request.

    Attributes:
        strength: a factor on the fitted strength, where the operator allows it.
        gates: give back what the gates read.
    """

    model_config = ConfigDict(extra="forbid")

    strength: FiniteFloat | None = None
    gates: bool = False


@dataclass(frozen=True)
class GateReport:
    """What one gate read where the reply starts."""

    layer: int
    score: float
    opened: float


def report_of(strength: float, gates: tuple[GateReport, ...]) -> dict[str, Any]:
    """The field ``alphasteer`` of a reply."""
    return {"strength": strength, "gates": [vars(gate) for gate in gates]}


def card(steering: Steering, *, allow_strength: bool) -> dict[str, Any]:
    """The field ``alphasteer`` of a model's card in ``/v1/models``."""
    layers = [list(push.gate.layers) for push in steering.pushes]
    return {"digest": steering.digest, "gates": layers, "allow_strength": allow_strength}


def refusal(status: int, sentence: str) -> dict[str, Any]:
    """The body of an answer that is no reply, in OpenAI's form."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": sentence, "type": kind, "param": None, "code": None}}


def page() -> str:
    """A chat with the steered model, beside it the unsteered one where requests may set their strength."""
    return files(__package__).joinpath("page.html").read_text(encoding="utf-8")
