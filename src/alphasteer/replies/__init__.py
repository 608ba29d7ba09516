"""What comes out: greedy replies in batches, and the offline judges of refusal and coherence.

``generate_replies`` gives Reply objects, ``compare_replies`` those of many steerings; ``refuses(text)`` and
``is_coherent(text)`` judge them, ``surprises`` asks the model itself.
"""

from alphasteer.replies.comparing import compare_replies
from alphasteer.replies.fluency import MOST_SURPRISE, surprises
from alphasteer.replies.generating import Reply, generate_replies
from alphasteer.replies.judging import answers, is_coherent, is_thinking, refuses
from alphasteer.replies.prefilled import PrefilledPrompts

__all__ = [
    "MOST_SURPRISE",
    "PrefilledPrompts",
    "Reply",
    "answers",
    "compare_replies",
    "generate_replies",
    "is_coherent",
    "is_thinking",
    "refuses",
    "surprises",
]
