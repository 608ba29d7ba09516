"""Chats in which prompts stand: a system prompt, an exchange before. A gate that never saw one reads it wrongly."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from alphasteer.prompts.chat import ChatTemplate
from alphasteer.prompts.prompt_set import Message, Prompt, PromptSet
from alphasteer.prompts.starter import starter_contexts

Place = Callable[[PromptSet, str], PromptSet]
"""Puts the prompts of a set into the contexts of a split."""


def in_contexts(
    template: ChatTemplate, seed: int, most_tokens: int | None = None, *, other_half: bool = False
) -> Place:
    """Half of the prompts stay alone, a quarter follows a system prompt, a quarter an exchange, half of these both.

    Each prompt's context is drawn by a digest of its text and the seed, so that adding prompts changes no other one.
    Chats that come with turns of their own stay as they are, and so does all where a template takes no system prompt
    but for the exchanges. A prompt whose chat would be longer than ``most_tokens`` stays alone.

    Args:
        other_half: put into chats those that stay alone without it, and the others alone.
    """
    takes_system = template.takes_system()

    def placed(prompts: PromptSet, split: str) -> PromptSet:
        contexts = starter_contexts(split)
        systems = [turns for turns in contexts if turns[0]["role"] == "system"] if takes_system else []
        exchanges = [turns for turns in contexts if turns[0]["role"] != "system"]

        def in_context(prompt: Prompt) -> Prompt:
            if len(prompt.messages) > 1:
                return prompt
            draw = hashlib.sha256(f"{seed}:{prompt.key}".encode()).digest()
            turn = draw[0] + 2 * other_half
            system = _drawn(systems, draw[1]) if turn % 4 == 1 or turn % 8 == 2 else ()
            exchange = _drawn(exchanges, draw[2]) if turn % 4 == 2 else ()
            if not system and not exchange:
                return prompt
            chat = replace(prompt, messages=(*system, *exchange, *prompt.messages))
            return prompt if most_tokens is not None and len(template.render(chat)) > most_tokens else chat

        return PromptSet(prompts.name, tuple(map(in_context, prompts)), prompts.dropped)

    return placed


def _drawn(contexts: Sequence[tuple[Message, ...]], number: int) -> tuple[Message, ...]:
    return contexts[number % len(contexts)] if contexts else ()
