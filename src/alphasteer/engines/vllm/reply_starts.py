"""Where a step's tokens stand in their requests, and which of them are reply starts."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def step_places(computed: Any, scheduled: Any) -> tuple[Any, Any]:
    """Of each of a step's tokens its request's row and its place there, both of shape (sum of ``scheduled``,).

    Args:
        computed: how many of each request's tokens earlier steps ran, of shape (requests,).
        scheduled: how many this step runs, of shape (requests,).
    """
    rows = np.repeat(np.arange(len(scheduled)), scheduled)
    first = np.cumsum(scheduled) - scheduled
    return rows, np.arange(len(rows)) + (computed - first)[rows]


def reply_starts(tokens: Any, computed: Any, scheduled: Any, marker: Sequence[int]) -> Any:
    """Which of a step's tokens end a marker, of shape (sum of ``scheduled``,).

    Args:
        tokens: every request's tokens so far, those of this step among them, of shape (requests, length).
        computed: how many of them earlier steps ran, of shape (requests,).
        scheduled: how many this step runs, of shape (requests,).
        marker: the reply start's token ids.
    """
    rows, places = step_places(computed, scheduled)
    found = places >= len(marker) - 1
    for back, token in enumerate(reversed(marker)):
        found &= tokens[rows, np.maximum(places - back, 0)] == token
    return found
