"""Chats to token ids, exactly as a server renders them, and where the reply starts in those ids."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from alphasteer.errors import ModelError, PromptError, first_line
from alphasteer.prompts.prompt_end import PromptEnd
from alphasteer.prompts.prompt_set import Prompt

# Different lengths, endings and scripts: what their renderings share at the end belongs to the template.
_PROBES = ("Hello", "What is 2 + 2?", "Write the word: ok)", "Gracias, ¿y después?\n\nOK", "7")

PROMPT_END = 32
"""Tokens at a prompt's end over which gates may read a mean (docs/frontier.md, "The prompt's end")."""


class ChatTemplate:
    """A tokenizer's chat template.

    Attributes:
        reply_start: the token ids at the end of every rendered prompt, after which the reply's first token is
            predicted: the generation prompt, or the end of the user's turn where a template has none. The last
            of them is the *reply start* position.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Wrap a Hugging Face tokenizer.

        Raises:
            ModelError: if it has no chat template, or its prompts have no common end.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError(
                "This tokenizer has no chat template, so nothing says where a reply starts; "
                "use a chat (instruct) model, or set tokenizer.chat_template."
            )
        self.tokenizer = tokenizer
        self.reply_start = self._find_reply_start()

    def render(self, prompt: Prompt) -> list[int]:
        """The token ids of one prompt, with the generation prompt at the end.

        Raises:
            PromptError: if the template has no form for such a chat.
        """
        from jinja2 import TemplateError

        try:
            return self._ids([dict(turn) for turn in prompt.messages], generation_prompt=True)
        except TemplateError as error:
            raise PromptError(
                f"Prompt {prompt.id!r} does not fit the model's chat template ({first_line(error)}); change its turns."
            ) from error

    def render_all(self, prompts: Sequence[Prompt], context_length: int | None = None) -> list[list[int]]:
        """The token ids of many prompts.

        Raises:
            PromptError: if a prompt is longer than the model's context; nothing is ever truncated.
        """
        rendered = [self.render(prompt) for prompt in prompts]
        if context_length is not None:
            longest, prompt = max(zip(map(len, rendered), prompts, strict=True), key=lambda pair: pair[0])
            if longest > context_length:
                raise PromptError(
                    f"Prompt {prompt.id!r} has {longest} tokens, more than the {context_length} that the model's "
                    "context leaves; shorten or remove it."
                )
        return rendered

    def takes_system(self) -> bool:
        """Whether the template has a place for a system prompt; some raise, others leave it out."""
        from jinja2 import TemplateError

        user = {"role": "user", "content": "Hello"}
        try:
            two = [self._ids([{"role": "system", "content": text}, user], True) for text in ("Be brief.", "Be kind.")]
        except TemplateError:
            return False
        return two[0] != two[1]

    @property
    def digest(self) -> str:
        """SHA-256 of the template's text."""
        return hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()

    def _ids(self, messages: list[dict[str, str]], generation_prompt: bool) -> list[int]:
        encoded = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=generation_prompt, tokenize=True, return_dict=True
        )
        return list(encoded["input_ids"])

    def _find_reply_start(self) -> tuple[int, ...]:
        chats = [[{"role": "user", "content": text}] for text in _PROBES]
        prompts = [self._ids(chat, generation_prompt=True) for chat in chats]
        common = len(_common_prefix([ids[::-1] for ids in prompts]))
        bare = self._ids(chats[0], generation_prompt=False)
        # The generation prompt alone where the template has one: it also ends prompts whose last turn is not
        # a user's (a tool's, say). Where tokens merge across the seam, the common end is what can be trusted.
        added = len(prompts[0]) - len(bare) if prompts[0][: len(bare)] == bare else 0
        length = min(common, added) if added else common
        if length == 0:
            raise ModelError("This chat template's prompts have no common end; add a generation prompt to it.")
        return tuple(prompts[0][-length:])

    @cached_property
    def prompt_end(self) -> PromptEnd | None:
        """Where the last of a user's words stand: what is before them in a chat's first turn and in later ones alike.

        None where the template opens no such turn alike, or takes one turn alone.
        """
        from jinja2 import TemplateError

        def user(text: str) -> dict[str, str]:
            return {"role": "user", "content": text}

        # Two, for what they end with is no part of a turn's opening.
        earlier = [[user("Hello"), {"role": "assistant", "content": text}] for text in ("Hello.", "7")]
        try:
            chats = [[self._ids([*before, user(p)], True) for p in _PROBES] for before in ([], *earlier)]
        except TemplateError:
            return None
        heads = [_common_prefix(prompts)[::-1] for prompts in chats]
        opening = list(_common_prefix(heads))[::-1]
        # A special token that opens the assistant's turn opens the user's: what stands before closes another.
        opener = self.reply_start[0]
        if opener in opening and opener in self.tokenizer.added_tokens_decoder:
            opening = opening[len(opening) - 1 - opening[::-1].index(opener) :]
        closing = len(_common_prefix([ids[::-1] for ids in chats[0]])) - len(self.reply_start)
        words = len(opening)
        while words > 1 and not self.tokenizer.decode(opening[words - 1 : words]).strip():
            words -= 1
        return PromptEnd(tuple(opening[:words]), len(opening) - words, closing, PROMPT_END) if opening else None


def common_prefix_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all sequences share, leaving every sequence at least one token of its own."""
    return min(len(_common_prefix(sequences)), min(map(len, sequences)) - 1)


def _common_prefix(sequences: Sequence[Sequence[int]]) -> Sequence[int]:
    # The smallest and the largest in dictionary order differ as early as any two do.
    low, high = min(map(list, sequences)), max(map(list, sequences))
    same = 0
    while same < min(len(low), len(high)) and low[same] == high[same]:
        same += 1
    return low[:same]
