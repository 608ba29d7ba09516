"""The same prompts under every arm: what is refused, what is right, and what stays the same to the last token."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from alphasteer.errors import PromptError
from alphasteer.evaluation.measures import right_choice, right_number
from alphasteer.evaluation.suites import REPLY_TOKENS, Suite
from alphasteer.models import context_length
from alphasteer.prompts import ChatTemplate, Prompt
from alphasteer.replies import Judge, Reply, generate_replies, is_coherent, refuses
from alphasteer.reporting import Reporter
from alphasteer.resuming import Shelf
from alphasteer.steering import Steering

VANILLA = "vanilla"
"""The arm without steering, which every other one is compared with."""
Arms = Mapping[str, Steering | None]
"""What is compared, by name; None steers nothing. ``vanilla`` is among them."""


@dataclass(frozen=True)
class Outcome:
    """What the arms did to one suite.

    Attributes:
        suite: its prompts and what is measured.
        replies: by arm, in the order of the prompts.
        marks: by arm and metric (``refusal``, ``coherent``, ``identical``, and ``accuracy`` where answers are known),
            whether it holds of each reply.
    """

    suite: Suite
    replies: Mapping[str, tuple[Reply, ...]]
    marks: Mapping[str, Mapping[str, tuple[bool, ...]]]

    def __len__(self) -> int:
        return len(self.suite.prompts)

    def share(self, arm: str, metric: str) -> float:
        """The share of the arm's replies of which the metric holds."""
        return sum(self.marks[arm][metric]) / len(self)


def evaluate(
    model: Any,
    tokenizer: Any,
    suites: Sequence[Suite],
    arms: Arms,
    report: Reporter,
    *,
    shelf: Shelf,
    max_new_tokens: int | None = None,
    judge: Judge = refuses,
) -> list[Outcome]:
    """Reply to every suite under every arm, in the same batches, and judge the replies.

    Replies are kept on the shelf as they come; an interrupted evaluation goes on where it stopped.

    Args:
        arms: what to compare; must hold ``vanilla``.
        max_new_tokens: a reply's length, for all suites; by default ``REPLY_TOKENS`` of their metrics.
        judge: says of a reply whether it refuses.

    Raises:
        PromptError: if a prompt does not fit the model's context, or two suites have one name.
        SteeringError: if an arm does not fit the model.
    """
    names = [suite.name for suite in suites]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise PromptError(f"Two suites are called {doubled!r}; give each a name of its own.")
    replies: dict[str, dict[str, tuple[Reply, ...]]] = {name: {} for name in names}

    def length(suite: Suite) -> int:
        return max_new_tokens or REPLY_TOKENS[suite.metric]

    for tokens, group in groupby(sorted(suites, key=length), key=length):
        together = list(group)  # in one go: fewer half-empty batches
        prompts = [prompt for suite in together for prompt in suite.prompts]
        for arm, steering in arms.items():
            given = iter(_replies(model, tokenizer, prompts, arm, steering, tokens, shelf, report))
            for suite in together:
                replies[suite.name][arm] = tuple(next(given) for _ in suite.prompts)
    return [_outcome(suite, replies[suite.name], judge) for suite in suites]


def _replies(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    arm: str,
    steering: Steering | None,
    tokens: int,
    shelf: Shelf,
    report: Reporter,
) -> list[Reply]:
    room = context_length(model)
    sequences = ChatTemplate(tokenizer).render_all(prompts, None if room is None else room - tokens)
    identity: list[Any] = [str(model.config._name_or_path), str(model.dtype), tokens, sequences]
    if steering is not None:
        identity.append(steering.digest)
    with nullcontext() if steering is None else steering.attach(model):
        return generate_replies(
            model,
            tokenizer,
            sequences,
            report,
            max_new_tokens=tokens,
            journal=shelf.journal("replies", identity),
            description=f"Replies, {arm}",
        )


def _outcome(suite: Suite, replies: Mapping[str, tuple[Reply, ...]], judge: Judge) -> Outcome:
    right = {
        "maths": lambda text, prompt: right_number(text, prompt.answer),
        "choice": lambda text, prompt: right_choice(text, prompt.answer, prompt.choices),
    }.get(suite.metric)
    marks = {}
    for arm, given in replies.items():
        marks[arm] = {
            "refusal": tuple(judge(reply.text) for reply in given),
            "coherent": tuple(is_coherent(reply.text) for reply in given),
            "identical": tuple(a.tokens == b.tokens for a, b in zip(given, replies[VANILLA], strict=True)),
        }
        if right is not None:
            marks[arm]["accuracy"] = tuple(
                right(reply.text, prompt) for reply, prompt in zip(given, suite.prompts, strict=True)
            )
    return Outcome(suite, replies, marks)
