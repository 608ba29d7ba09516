"""What the arms did to a suite, prompt by prompt."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from alphasteer.evaluation.starts import Starts
from alphasteer.evaluation.suites import Suite
from alphasteer.replies import Reply

CUT = 60
"""Characters shown of a reply that complies with a malicious request."""


@dataclass(frozen=True)
class Outcome:
    """What the arms did to one suite.

    Attributes:
        suite: its prompts and what is measured.
        replies: by arm, in the order of the prompts.
        marks: by arm and metric (``refusal``, ``identical``, ``coherent`` but of single letters, and ``accuracy`` where
            answers are known), whether it holds of each reply; None where a judge could not say, or
            the reply was cut within its thoughts.
        starts: by arm that steers, what was read where its replies start.
        wins: by arm, how each reply fares against the unsteered one (see ``wins``); empty where nobody compared.
        tokens: what judging them cost, by who judged: ``judge`` and ``preference_judge``; 0 for what an earlier suite
            showed too.
    """

    suite: Suite
    replies: Mapping[str, tuple[Reply, ...]]
    marks: Mapping[str, Mapping[str, tuple[bool | None, ...]]]
    starts: Mapping[str, Starts] = field(default_factory=dict, compare=False)  # tensors are not equal or unequal
    wins: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.suite.prompts)

    def shown(self, arm: str, index: int, full_replies: bool = False) -> str:
        """A reply's text as people see it: compliance with a malicious request is cut short unless asked for."""
        text = self.replies[arm][index].text
        complies = self.suite.kind == "safety" and not self.marks[arm]["refusal"][index]
        return text[:CUT] + " [cut]" if complies and not full_replies and len(text) > CUT else text

    def judged(self, arm: str, metric: str) -> int:
        """How many of the arm's replies have a verdict."""
        return sum(mark is not None for mark in self.marks[arm][metric])

    def share(self, arm: str, metric: str) -> float:
        """The share of the arm's judged replies of which the metric holds; 0 if none was judged."""
        return sum(mark is True for mark in self.marks[arm][metric]) / max(1, self.judged(arm, metric))
