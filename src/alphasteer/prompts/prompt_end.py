"""Where the end of a prompt stands among a chat's tokens: what the user said last, without the template around it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PromptEnd:
    """The last tokens of what the user said before a reply.

    Attributes:
        opening: the token ids with which a chat template opens a user's turn.
        skipped: so many more follow: white space, which may be merged with the first of the user's.
        closing: how many tokens close the turn before the reply start.
        most: so many tokens at most.
    """

    opening: tuple[int, ...]
    skipped: int
    closing: int
    most: int

    def span(self, tokens: Sequence[int], kept_back: int) -> tuple[int, int]:
        """Where they begin and end in a chat.

        What follows the user's words before the reply, such as a tool's answer, counts with them. Where no user's turn
        opens among the last tokens, all of them count, but for those at their beginning that are the chat's first one:
        that one begins every text, and its stream is far longer than any other's.

        Args:
            tokens: the chat's token ids, up to the end of a reply start.
            kept_back: how many of these are the reply start's.

        Returns:
            The first place and the one after the last; equal where the user said nothing.
        """
        end, width = max(0, len(tokens) - kept_back - self.closing), len(self.opening) + self.skipped
        lowest = max(0, end - self.most)
        for begin in range(end, max(lowest, width) - 1, -1):
            if tuple(tokens[begin - width : begin - self.skipped]) == self.opening:
                return begin, end
        return next((place for place in range(lowest, end) if tokens[place] != tokens[0]), end), end
