"""What a request asks for: its own strength where the operator allows it, and never another one's cached blocks."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from alphasteer.engines.vllm.reply_starts import reply_starts
from alphasteer.engines.vllm.settings import GATES, STRENGTH, ServingConfig
from alphasteer.steering.positions import begins_a_reply


def problem_of(params: Any, tokens: Sequence[int] | None, marker: Sequence[int], config: ServingConfig) -> str | None:
    """In a sentence, what is wrong with a request; None if it can be served.

    Args:
        params: vLLM's sampling parameters; requests that write nothing (pooling) have others.
        tokens: the prompt's token ids, or None where only embeddings were given.
        marker: the reply start's token ids.
    """
    given = _wish(params, STRENGTH)
    if given is not None:
        if not config.allow_strength:
            return f"{STRENGTH} may not be set here; the operator did not allow it."
        if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
            return f"{STRENGTH} must be a number, not {given!r}."
    if _wish(params, GATES) not in (None, 0, 1):
        return f"{GATES} must be 1 or 0, not {_wish(params, GATES)!r}."
    if tokens is None:
        return "Steering needs the prompt's tokens; embeddings alone cannot be steered."
    if not begins_a_reply(tokens, marker):
        return (
            "The prompt's last turn has no reply start, so it would be answered unsteered; use the chat endpoint with "
            "the model's own chat template, or end the prompt with its generation prompt."
        )
    return None


def strength_of(params: Any, config: ServingConfig) -> float:
    """A request's strength, clamped to what the operator allows."""
    given = _wish(params, STRENGTH)
    if given is None or not config.allow_strength:
        return config.strength
    return min(max(float(given), 0.0), config.highest_strength)


def bound(params: Any, config: ServingConfig) -> None:
    """Shorten what a request asks for to the operator's length of a reply, if there is one."""
    if config.most_tokens is not None and hasattr(params, "max_tokens"):  # pooling writes nothing
        params.max_tokens = min(params.max_tokens or config.most_tokens, config.most_tokens)


def bound_beams(request: Any, config: ServingConfig) -> None:
    """The same for a beam search, which asks for one token a step: where OpenAI's request comes in."""
    if config.most_tokens is not None and getattr(request, "use_beam_search", False):
        names = [name for name in ("max_completion_tokens", "max_tokens") if hasattr(request, name)]
        asked = next((getattr(request, name) for name in names if getattr(request, name)), config.most_tokens)
        for name in names:
            setattr(request, name, min(asked, config.most_tokens))


def wants_gates(params: Any) -> bool:
    """Whether a request asks what the gates read."""
    return bool(_wish(params, GATES))


def salted(salt: str | None, params: Any, config: ServingConfig) -> str:
    """The cache salt under which a request's blocks are kept: steering changes what they hold."""
    return f"{salt or ''}|alphasteer:{config.digest}:{strength_of(params, config)!r}"


def most_cached(tokens: Sequence[int], cached: int, marker: Sequence[int], reach: int) -> int:
    """How many of a request's cached tokens may be taken, so that gates read all of the prompt ends that they need.

    What comes from the cache is not read. A reply start that comes from there was steered when it ran; of any other,
    all tokens that count for it must run.

    Args:
        tokens: the request's token ids.
        cached: how many of them were found.
        marker: the reply start's token ids.
        reach: how many tokens before a reply is the first one that counts (see ``prompt_ends.reach``).
    """
    ids = np.asarray(tokens)
    ends = np.flatnonzero(reply_starts(ids[None], np.zeros(1, int), np.array([len(ids)]), marker)) + 1
    for end in ends[::-1].tolist():
        if end - reach < cached < end:
            cached = max(0, end - reach)
    return cached


def _wish(params: Any, name: str) -> Any:
    return (getattr(params, "extra_args", None) or {}).get(name)
