"""What both servers say alike, vLLM's and the small one: the field ``alphasteer``, limits and refusals, the page."""

import asyncio
import hmac
from collections.abc import AsyncIterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from alphasteer.steering import Steering

NO_KEY = "The API key is missing or wrong; send it as a bearer token."
LATE = "The reply took too long; ask for fewer tokens, or later."


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


GRACE = 30
"""Seconds in which replies that are being written may end when a server is stopped."""


class Limits(BaseModel):
    """What a request may take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    most_bytes: int = Field(1 << 20, ge=1024, description="Size of a request's body at most.")
    seconds: float = Field(300.0, gt=0, description="A request is given up after this time.")


class Refusal(Exception):
    """An answer that is no reply: a status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status

    @property
    def body(self) -> dict[str, Any]:
        """In OpenAI's form."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": None, "code": None}}


def has_key(given: bytes, key: str | None) -> bool:
    """Whether an ``Authorization`` header bears the key, in a time that does not tell how much of it is right.

    Args:
        given: the header, empty if there is none.
        key: None or empty if everyone may ask.
    """
    return not key or hmac.compare_digest(given, f"Bearer {key}".encode())


async def read_body(parts: AsyncIterable[bytes], limits: Limits) -> bytes:
    """A request's whole body.

    Raises:
        Refusal: if it is too large, or does not come in time.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in parts:
                body += part
                if len(body) > limits.most_bytes:
                    raise Refusal(413, f"The request is larger than {limits.most_bytes} bytes; send less.")
    except TimeoutError as error:
        raise Refusal(408, "The request took too long to come; send it faster.") from error
    return bytes(body)


def page() -> str:
    """A chat with the steered model, beside it the unsteered one where requests may set their strength."""
    return files(__package__).joinpath("page.html").read_text(encoding="utf-8")
