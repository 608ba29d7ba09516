"""What clients may ask for: OpenAI's requests, as far as they are served, and one field of our own."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from alphasteer.engines.protocol import Wishes

DEFAULTS: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "suffix": ("",),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "top_logprobs": (0,),
    "prompt_logprobs": (0,),
    "top_k": (0, -1),
    "min_p": (0, 0.0),
    "min_tokens": (0,),
    "repetition_penalty": (1, 1.0),
    "ignore_eos": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "vllm_xargs": ({},),
    "function_call": ("none", "auto"),
    "reasoning_effort": ("none",),
    "thinking_token_budget": (),
    "documents": ([],),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "stop_token_ids": ([],),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "prompt_embeds": (),
}
"""Fields of OpenAI's, and of vLLM's beside them, that would change the reply and are not served, with the values that
change nothing."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Word = Annotated[str, Field(min_length=1)]


class StreamOptions(BaseModel):
    """OpenAI's ``stream_options``."""

    include_usage: bool = False


class Request(BaseModel):
    """What chat and plain completions have in common."""

    model_config = ConfigDict(extra="ignore")

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[FiniteFloat, Field(ge=0, le=2)] | None = None
    top_p: Annotated[FiniteFloat, Field(ge=1e-6, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[list[Word], BeforeValidator(_listed), Field(max_length=4)] | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    alphasteer: Wishes = Wishes()

    @model_validator(mode="before")
    @classmethod
    def _nothing_unserved(cls, given: Any) -> Any:
        if isinstance(given, dict):
            for name, harmless in DEFAULTS.items():
                if given.get(name) is not None and given[name] not in harmless:
                    raise ValueError(f"{name} is not served here; leave it out")
        return given


class TextPart(BaseModel):
    """A part of a message that is text; others are not served."""

    type: Literal["text"]
    text: str


class Turn(BaseModel):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def message(self) -> dict[str, str]:
        """As a chat template takes it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(Request):
    """``/v1/chat/completions``."""

    messages: Annotated[list[Turn], Field(min_length=1)]


class CompletionRequest(Request):
    """``/v1/completions``: one prompt, rendered by the client, with its reply start."""

    prompt: Annotated[str, Field(min_length=1)]
