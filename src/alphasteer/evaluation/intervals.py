"""How far counted shares can be trusted, alone and against each other."""

import math
from collections.abc import Sequence

import numpy as np


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


def bootstrap(values: Sequence[float], draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The percentile bootstrap's 95 % interval of a mean (Efron, 1979).

    Args:
        values: what the mean is of; prompts, drawn again with replacement.
        draws: how often.
        seed: the same seed gives the same interval.
    """
    drawn = np.random.default_rng(seed).choice(np.asarray(values), (draws, len(values))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def area_interval(low: Sequence[float], high: Sequence[float], z: float = 1.96) -> tuple[float, float]:
    """The interval of the area under an ROC curve, 95 % by default (DeLong et al., Biometrics 1988).

    Args:
        low, high: scores that ought to be low, and that ought to be high.
        z: the normal quantile of the confidence wanted.
    """
    above = np.subtract.outer(np.asarray(high), np.asarray(low))
    won = (above > 0) + 0.5 * (above == 0)  # of every pair
    variance = sum(won.mean(axis).var(ddof=1) / won.shape[1 - axis] for axis in (0, 1) if won.shape[1 - axis] > 1)
    half = z * math.sqrt(variance)
    return max(0.0, float(won.mean()) - half), min(1.0, float(won.mean()) + half)


def mcnemar(one: Sequence[bool], other: Sequence[bool]) -> float:
    """Two-sided p-value that two arms do alike on the same prompts: McNemar's exact test.

    Only prompts on which they differ count: were the arms alike, each would be as likely to fall either way.
    """
    gained = sum(not a and b for a, b in zip(one, other, strict=True))
    lost = sum(a and not b for a, b in zip(one, other, strict=True))
    differing = gained + lost
    tail: float = sum(math.comb(differing, k) for k in range(min(gained, lost) + 1)) / 2**differing
    return min(1.0, 2 * tail)
