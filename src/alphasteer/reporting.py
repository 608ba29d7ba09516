"""The seam through which long steps speak: a reporter says sentences and tracks progress.

The library logs; the command line hands in a reporter that draws progress bars with a remaining time.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")
_logger = logging.getLogger("alphasteer")


class Reporter(Protocol):
    """Anything that can say a sentence and follow a loop."""

    def say(self, message: str) -> None:
        """Tell the user one thing that was decided or done."""

    def track(self, items: Iterable[tuple[T, int]], description: str, total: int) -> Iterator[T]:
        """Yield the items, each of which comes with its share of ``total``, showing progress on the way."""


class LogReporter:
    """The library's default: sentences go to the ``alphasteer`` logger, progress is silent."""

    def say(self, message: str) -> None:
        """Log the sentence."""
        _logger.info(message)

    def track(self, items: Iterable[tuple[T, int]], description: str, total: int) -> Iterator[T]:
        """Yield the items."""
        _logger.debug("%s (%d)", description, total)
        for item, _ in items:
            yield item
