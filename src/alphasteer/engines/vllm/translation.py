"""The field ``alphasteer`` on vLLM's endpoints, in requests and replies, as on the transformers server."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from alphasteer.engines.protocol import Wishes
from alphasteer.engines.vllm.settings import GATES, KEY, STRENGTH
from alphasteer.errors import first_problem

Result = TypeVar("Result")


def translate(request: Any) -> str | None:
    """Say a request's wishes in vLLM's own ``vllm_xargs``; in a sentence, what is wrong with them, if anything is.

    Args:
        request: vLLM's request of a chat or a completion, whose unknown fields are kept.
    """
    given = (request.model_extra or {}).get(KEY)
    if given is None:
        return None
    try:
        wishes = Wishes.model_validate(given)
    except ValidationError as error:
        where, problem = first_problem(error, "")
        return f"{KEY}{where and '.' + where}: {problem}."
    strength = {} if wishes.strength is None else {STRENGTH: wishes.strength}
    request.vllm_xargs = {**(request.vllm_xargs or {}), GATES: int(wishes.gates), **strength}
    return None


def tell(reply: Any) -> Any:
    """Move what the gates read, if it is told, from the field that brought it into the reply's own.

    Args:
        reply: vLLM's reply, or its error, which has no such field.
    """
    given = getattr(reply, "kv_transfer_params", None) or {}
    if KEY in given:
        setattr(reply, KEY, given[KEY])
        reply.kv_transfer_params = {key: value for key, value in given.items() if key != KEY} or None
    return reply


async def watched(
    results: AsyncIterator[Result], told: dict[str, Any], output_of: Callable[[Result], Any]
) -> AsyncIterator[Result]:
    """The engine's results as they come, with what is told in them kept in ``told``."""
    async for result in results:
        told.update((output_of(result).kv_transfer_params or {}).get(KEY, {}))
        yield result


async def telling(events: AsyncIterator[str], told: dict[str, Any]) -> AsyncIterator[str]:
    """A stream's events; the first one after something was told carries it."""
    waiting = True
    async for event in events:
        if waiting and told and event.startswith("data: {"):
            event, waiting = f"data: {json.dumps({**json.loads(event[6:]), KEY: told}, ensure_ascii=False)}\n\n", False
        yield event
