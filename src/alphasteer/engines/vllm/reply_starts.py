"""Which of many requests' tokens are reply starts."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def reply_starts(tokens: Any, computed: Any, scheduled: Any, marker: Sequence[int]) -> Any:
    """Which of a step's tokens end a marker, of shape (sum of ``scheduled``,).

    Args:
        tokens: every request's tokens so far, those of this step among them, of shape (requests, length).
        computed: how many of them earlier steps ran, of shape (requests,).
        scheduled: how many this step runs, of shape (requests,).
        marker: the reply start's token ids.
    """
    rows = np.repeat(np.arange(len(scheduled)), scheduled)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(scheduled) - scheduled, scheduled)
    places = computed[rows] + within
    found = places >= len(marker) - 1
    for back, token in enumerate(reversed(marker)):
        found &= tokens[rows, np.maximum(places - back, 0)] == token
    return found
