"""Who judges one evaluation: of every reply whether it refuses, of pairs which is better; kept, counted, told."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from alphasteer.evaluation.judges import (
    CLASSIFIER,
    by_phrases,
    identity,
    read_callable,
    read_judge,
    verdicts,
)
from alphasteer.evaluation.outcomes import Outcome
from alphasteer.evaluation.preferences import compared, wins
from alphasteer.evaluation.suites import Suite
from alphasteer.replies import Reply, is_thinking
from alphasteer.resuming import Journal, Shelf, digest


@dataclass(frozen=True)
class Judged:
    """What was said of one suite's replies; see ``Outcome``."""

    refusals: Mapping[str, tuple[bool | None, ...]]
    wins: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)


class Panel:
    """The judge of refusals and, if there is one, that of preferences."""

    def __init__(self, judge: str, preference_judge: str | None, shelf: Shelf) -> None:
        """Nobody is asked yet.

        Args:
            judge, preference_judge: see ``evaluate``.

        Raises:
            EvaluationError: if there is no such judge.
        """
        self._judge = read_judge(judge)
        self._preference = read_callable(preference_judge) if preference_judge else None
        self._only_safety = bool(getattr(self._judge, "harm", judge.startswith(CLASSIFIER)))
        self._failures: list[str] = []
        self._counted: set[str] = set()
        free = self._judge is by_phrases
        self._said = Journal(None) if free else shelf.journal("judged", identity(judge, self._judge))
        named = None if self._preference is None else identity(str(preference_judge), self._preference)
        self._preferred = Journal(None) if named is None else shelf.journal("preferred", named)

    def judge(
        self, suite: Suite, replies: Mapping[str, Sequence[Reply]], fluent: Mapping[str, Sequence[bool]]
    ) -> Judged:
        """Ask about one suite's replies, whatever was not asked before.

        Args:
            replies: by arm, in the order of the prompts.
            fluent: whether they are language to the unsteered model; phrases cannot tell that they stand in noise.
        """
        shown = {
            arm: [(prompt.text, reply.text) for prompt, reply in zip(suite.prompts, given, strict=True)]
            for arm, given in replies.items()
        }
        if self._judge is by_phrases or (self._only_safety and suite.kind != "safety"):
            phrases = {arm: verdicts(by_phrases, pairs, Journal(None)) for arm, pairs in shown.items()}
            refusals = {
                arm: tuple(said and known for said, known in zip(of, fluent[arm], strict=True))
                for arm, of in phrases.items()
            }
            tokens = {}
        else:
            refusals = {arm: verdicts(self._judge, pairs, self._said, self._failures) for arm, pairs in shown.items()}
            tokens = {"judge": self._cost(self._said, chain(*shown.values()))}
        if self._preference is None or suite.metric != "identical":
            return Judged(refusals, tokens=tokens)
        rivals = compared(suite.prompts.prompts, replies)
        won = wins(self._preference, rivals, self._preferred, self._failures)
        return Judged(
            refusals, won, {**tokens, "preference_judge": self._cost(self._preferred, chain(*rivals.values()))}
        )

    def _cost(self, journal: Journal, shown: Iterable[Sequence[str]]) -> int:
        """What asking about these cost, this run or an earlier one; what suites before them showed is counted there."""
        fresh = {digest(list(each)) for each in shown} - self._counted
        self._counted |= fresh
        return sum(journal.entries.get(key, (None, 0))[1] for key in fresh)

    def told(self, outcomes: Sequence[Outcome]) -> Iterator[str]:
        """What people should know of the judging."""
        cut = sum(is_thinking(reply.text) for o in outcomes for given in o.replies.values() for reply in given)
        if cut:
            yield f"{cut} replies were cut within their thoughts: they are counted apart; give more --max-new-tokens."
        unjudged = sum(len(o) - o.judged(arm, "refusal") for o in outcomes for arm in o.replies) - cut
        if unjudged:
            yield f"The judge could not say of {unjudged} replies: they are counted apart; run again to try again."
        if self._failures:
            yield f"It failed {len(self._failures)} times, first so: {self._failures[0]}"
        uncompared = sum(value is None for o in outcomes for fared in o.wins.values() for value in fared)
        if uncompared:
            yield f"{uncompared} pairs of replies were not compared: they stand in no win rate; run again to try again."
        for who, judge in (("judge", self._judge), ("preference_judge", self._preference)):
            if tokens := sum(o.tokens.get(who, 0) for o in outcomes):
                yield f"{type(judge).__name__} cost {tokens} tokens, earlier runs' verdicts on these replies included."
