"""How far a share that was counted can be trusted."""

import math


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share among n, 95 % by default (Wilson, JASA 1927).

    Args:
        share: the observed share, 0 to 1.
        n: how many were counted.
        z: the normal quantile of the confidence wanted.
    """
    if n == 0:
        return 0.0, 1.0
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
