"""Win rates: whether a judge likes an arm's reply better than the unsteered one."""

from collections.abc import Callable, Mapping, Sequence

from alphasteer.errors import EvaluationError
from alphasteer.evaluation.arms import VANILLA
from alphasteer.evaluation.judges import attempted
from alphasteer.prompts import Prompt
from alphasteer.replies import Reply
from alphasteer.resuming import Shelf, digest

Preference = Callable[[str, str, str], float | None]
"""Of a request and two replies: 1 if the first is better, 0 if the second is, 0.5 for neither, None for no verdict."""


def wins(
    preference: Preference,
    name: Sequence[str],
    prompts: Sequence[Prompt],
    replies: Mapping[str, Sequence[Reply]],
    shelf: Shelf,
    failures: list[str] | None = None,
) -> dict[str, tuple[float | None, ...]]:
    """By arm, how each reply fares against the unsteered one: 1 won, 0.5 even, 0 lost, None unjudged.

    The judge sees each pair in both orders, since judges favour a place, and the two answers are averaged. Equal
    replies are even without being shown. What was judged is kept on the shelf; failures are not.

    Args:
        name: tells the judge from others (see ``identity``).
        replies: by arm, ``vanilla`` among them, in the order of the prompts.
        failures: is told why the judge failed, each time.
    """
    found: dict[str, tuple[float | None, ...]] = {}
    journal = shelf.journal("preferences", name)
    for arm, given in replies.items():
        if arm == VANILLA:
            continue
        pairs = [(p.text, a.text, b.text) for p, a, b in zip(prompts, given, replies[VANILLA], strict=True)]
        fared: list[float | None] = []
        for request, own, other in pairs:
            shown = digest([request, own, other])
            if own != other and shown not in journal.entries:
                won = attempted(failures, _both_orders, preference, request, own, other)
                if won is not None:
                    journal.add({shown: won})
            fared.append(0.5 if own == other else journal.entries.get(shown))
        found[arm] = tuple(fared)
    return found


def _both_orders(preference: Preference, request: str, own: str, other: str) -> float | None:
    first, second = preference(request, own, other), preference(request, other, own)
    if first is None or second is None:
        return None
    strange = next((answer for answer in (first, second) if not 0 <= answer <= 1), None)
    if strange is not None:
        raise EvaluationError(f"the judge returned {strange!r}, which is no number from 0 to 1")
    return (first + 1 - second) / 2
