"""Win rates: whether a judge likes an arm's reply better than the unsteered one."""

from collections.abc import Callable, Mapping, Sequence

from alphasteer.errors import EvaluationError
from alphasteer.evaluation.arms import VANILLA
from alphasteer.evaluation.judges import consulted
from alphasteer.prompts import Prompt
from alphasteer.replies import Reply
from alphasteer.resuming import Journal

Preference = Callable[[str, str, str], float | None]
"""Of a request and two replies: 1 if the first is better, 0 if the second is, 0.5 for neither, None for no verdict."""
EVEN = 0.5
"""How a reply fares against itself."""


def compared(
    prompts: Sequence[Prompt], replies: Mapping[str, Sequence[Reply]]
) -> dict[str, list[tuple[str, str, str]]]:
    """By arm that steers, what a judge is shown: the request, the arm's reply and the unsteered one.

    Args:
        replies: by arm, ``vanilla`` among them, in the order of the prompts.
    """
    return {
        arm: [(p.text, a.text, b.text) for p, a, b in zip(prompts, given, replies[VANILLA], strict=True)]
        for arm, given in replies.items()
        if arm != VANILLA
    }


def wins(
    preference: Preference,
    shown: Mapping[str, Sequence[tuple[str, str, str]]],
    journal: Journal,
    failures: list[str] | None = None,
) -> dict[str, tuple[float | None, ...]]:
    """By arm, how each reply fares against the unsteered one: 1 won, 0.5 even, 0 lost, None unjudged.

    The judge sees each pair in both orders, since judges favour a place, and the two answers are averaged. Equal
    replies are even without being shown.

    Args:
        shown: as ``compared`` gives it.
        journal: keeps what this judge says; after a failure it is asked again.
        failures: is told why the judge failed, each time.
    """

    def fared(pair: tuple[str, str, str]) -> float | None:
        _, own, other = pair
        return EVEN if own == other else consulted(journal, pair, preference, _both_orders, failures)

    return {arm: tuple(map(fared, pairs)) for arm, pairs in shown.items()}


def _both_orders(preference: Preference, request: str, own: str, other: str) -> float | None:
    first, second = preference(request, own, other), preference(request, other, own)
    if first is None or second is None:
        return None
    strange = next((answer for answer in (first, second) if not 0 <= answer <= 1), None)
    if strange is not None:
        raise EvaluationError(f"the judge returned {strange!r}, which is no number from 0 to 1")
    return (first + 1 - second) / 2
