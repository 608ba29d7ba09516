"""How far counted shares, means and areas can be trusted, alone and against each other."""

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


def mean_interval(shares: Sequence[float], intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The interval of a mean of independent shares, from the interval of each (Zou & Donner, Stat. Med. 2008).

    Of one share it is that share's own; where all are 0 or 1 it still has a width, which a bootstrap's has not.

    Args:
        shares: each counting equally.
        intervals: of each, low and high.
    """
    mean, count = sum(shares) / len(shares), len(shares)
    below = math.sqrt(sum((share - low) ** 2 for share, (low, _) in zip(shares, intervals, strict=True))) / count
    above = math.sqrt(sum((high - share) ** 2 for share, (_, high) in zip(shares, intervals, strict=True))) / count
    return max(0.0, mean - below), min(1.0, mean + above)


def area_interval(low: Sequence[float], high: Sequence[float], z: float = 1.96) -> tuple[float, float]:
    """The interval of the area under an ROC curve, 95 % by default (DeLong et al., Biometrics 1988).

    Args:
        low, high: scores that ought to be low, and that ought to be high.
        z: the normal quantile of the confidence wanted.
    """
    of_low, of_high = pairs_won(low, high)
    area, half = float(of_high.mean()), z * math.sqrt(_variance(of_low) + _variance(of_high))
    return max(0.0, area - half), min(1.0, area + half)


def area_test(
    one: tuple[Sequence[float], Sequence[float]], other: tuple[Sequence[float], Sequence[float]]
) -> float | None:
    """Two-sided p-value that two scores of the same prompts have equal areas (DeLong et al., Biometrics 1988).

    Args:
        one, other: each score's values that ought to be low, and those that ought to be high, in the same order.

    Returns:
        None where the areas differ and no pair of prompts differs from another in how, which leaves nothing to test by.
    """
    low, high = (a - b for a, b in zip(pairs_won(*one), pairs_won(*other), strict=True))
    difference, variance = abs(float(high.mean())), _variance(low) + _variance(high)
    if variance < 1e-20:  # nothing but rounding
        return 1.0 if difference < 1e-10 else None
    return math.erfc(difference / math.sqrt(2 * variance))


def pairs_won(low: Sequence[float], high: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Of every low score the share of high ones above it, and of every high one that of low ones below; ties half."""
    above = np.subtract.outer(np.asarray(high), np.asarray(low))
    won = (above > 0) + 0.5 * (above == 0)
    return won.mean(0), won.mean(1)


def _variance(shares: np.ndarray) -> float:
    """Of their mean."""
    return float(shares.var(ddof=1)) / len(shares) if len(shares) > 1 else 0.0


def sign_test(one: Sequence[float], other: Sequence[float]) -> float:
    """Two-sided p-value that two arms do alike on the same prompts, exact; of yes and no it is McNemar's.

    Only prompts on which they differ count: were the arms alike, each would be as likely to fall either way.
    """
    gained = sum(a < b for a, b in zip(one, other, strict=True))
    lost = sum(a > b for a, b in zip(one, other, strict=True))
    differing = gained + lost
    tail: float = sum(math.comb(differing, k) for k in range(min(gained, lost) + 1)) / 2**differing
    return min(1.0, 2 * tail)
