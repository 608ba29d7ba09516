"""What comes out: greedy replies in batches, and the offline judges of refusal and coherence.

``generate_replies`` gives Reply objects; ``refuses(text)`` and ``is_coherent(text)`` judge them.
"""

from alphasteer.replies.generating import Reply, generate_replies
from alphasteer.replies.judging import is_coherent, refuses
from alphasteer.replies.prefilled import PrefilledPrompts

__all__ = ["PrefilledPrompts", "Reply", "generate_replies", "is_coherent", "refuses"]
