"""What goes in: prompts from files, the Hub or the starter sets, rendered to token ids as a server does.

``read_prompts(SPEC)`` gives a PromptSet; ``ChatTemplate(tokenizer)`` renders it and knows the reply start.
"""

from alphasteer.prompts.batching import batches_by_tokens, by_beginning, pad, tracked_batches
from alphasteer.prompts.chat import ChatTemplate, common_prefix_length
from alphasteer.prompts.contexts import Place, in_contexts
from alphasteer.prompts.prompt_end import PromptEnd
from alphasteer.prompts.prompt_set import Message, Prompt, PromptSet, union, without_shared
from alphasteer.prompts.sources import Columns, read_prompts
from alphasteer.prompts.starter import starter_prompts

__all__ = [
    "ChatTemplate",
    "Columns",
    "Message",
    "Place",
    "Prompt",
    "PromptEnd",
    "PromptSet",
    "batches_by_tokens",
    "by_beginning",
    "common_prefix_length",
    "in_contexts",
    "pad",
    "read_prompts",
    "starter_prompts",
    "tracked_batches",
    "union",
    "without_shared",
]
