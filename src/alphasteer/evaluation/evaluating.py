"""The same prompts under every arm: what is refused, what is right, and what stays the same to the last token."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from alphasteer.errors import PromptError
from alphasteer.evaluation.arms import VANILLA, Arms
from alphasteer.evaluation.judges import CLASSIFIER, PHRASES, read_callable, read_judge
from alphasteer.evaluation.measures import right_choice, right_number
from alphasteer.evaluation.outcomes import Outcome
from alphasteer.evaluation.panel import Judged, Panel
from alphasteer.evaluation.starts import Starts, StartsOnlooker
from alphasteer.evaluation.suites import REPLY_TOKENS, Suite
from alphasteer.models import context_length, loaded_digest
from alphasteer.prompts import ChatTemplate, Prompt
from alphasteer.replies import MOST_SURPRISE, Reply, compare_replies, is_coherent, is_thinking, surprises
from alphasteer.reporting import LogReporter, Reporter
from alphasteer.resuming import Shelf


def evaluate(
    model: Any,
    tokenizer: Any,
    suites: Sequence[Suite],
    arms: Arms,
    report: Reporter,
    *,
    shelf: Shelf,
    max_new_tokens: int | None = None,
    judge: str = PHRASES,
    preference_judge: str | None = None,
) -> list[Outcome]:
    """Reply to every suite under every arm, in the same batches, and judge the replies.

    What the arms do where replies start is read along the way. All is kept on the shelf as it comes; an interrupted
    evaluation goes on where it stopped.

    Args:
        arms: what to compare; must hold ``vanilla``.
        max_new_tokens: a reply's length, for all suites; by default ``REPLY_TOKENS`` of their metrics.
        judge: says of a reply whether it refuses; see ``read_judge``. One of harm is asked on safety suites only, and
            the phrases decide on the others.
        preference_judge: says which of two replies is better, of the utility suites without right answers; see
            ``read_callable`` and ``Preference``.

    Raises:
        EvaluationError: if there is no such judge.
        PromptError: if a prompt does not fit the model's context, or two suites have one name.
        SteeringError: if an arm does not fit the model.
    """
    check_evaluation(suites)
    panel = Panel(judge, preference_judge, shelf)
    replies: dict[str, dict[str, tuple[Reply, ...]]] = {}
    starts: dict[str, dict[str, Starts]] = {}

    def length(suite: Suite) -> int:
        return max_new_tokens or REPLY_TOKENS[suite.metric]

    for tokens, group in groupby(sorted(suites, key=length), key=length):
        together = list(group)  # in one go: fewer half-empty batches
        prompts = [prompt for suite in together for prompt in suite.prompts]
        said, read = _replies(model, tokenizer, prompts, arms, tokens, shelf, report)
        end = 0
        for suite in together:
            start, end = end, end + len(suite.prompts)
            replies[suite.name] = {arm: tuple(given[start:end]) for arm, given in said.items()}
            starts[suite.name] = {arm: each.part(start, end) for arm, each in read.items()}
    outcomes = []
    counted = [(suite, len(suite.prompts)) for suite in suites]
    for suite in report.track(counted, "Judging", sum(count for _, count in counted)):
        own = replies[suite.name]
        fluent = _fluent(model, tokenizer, own, shelf)
        judged = panel.judge(suite, own, fluent)
        outcomes.append(_outcome(suite, own, starts[suite.name], judged, fluent))
    for message in panel.told(outcomes):
        report.say(message)
    return outcomes


def check_evaluation(suites: Sequence[Suite], judge: str = PHRASES, preference_judge: str | None = None) -> None:
    """Refuse, before hours are spent, what could not be told apart or counted in the end.

    Raises:
        PromptError: if two suites have one name.
        EvaluationError: if a suite wants a checker that is not installed, or there is no such judge.
    """
    if not judge.startswith(CLASSIFIER):  # classifiers are large, and loaded when they judge
        read_judge(judge)
    if preference_judge is not None:
        read_callable(preference_judge)
    names = [suite.name for suite in suites]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise PromptError(f"Two suites are called {doubled!r}; give each a name of its own.")
    if any(suite.metric == "maths" for suite in suites):
        right_number("1", "1")


def _fluent(
    model: Any, tokenizer: Any, replies: Mapping[str, Sequence[Reply]], shelf: Shelf
) -> dict[str, tuple[bool, ...]]:
    """By arm, which replies the unsteered model itself reads as language; its own are, by that measure.

    A reply of several arms is read once.
    """
    own = set(replies[VANILLA])
    other = list(dict.fromkeys(reply for given in replies.values() for reply in given if reply not in own))
    key = [loaded_digest(model), str(model.dtype), [reply.tokens for reply in other]]
    found = surprises(model, tokenizer, other, LogReporter(), journal=shelf.journal("surprises", key))
    noise = {reply for reply, value in zip(other, found, strict=True) if value > MOST_SURPRISE}
    return {arm: tuple(reply not in noise for reply in given) for arm, given in replies.items()}


def _replies(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    arms: Arms,
    tokens: int,
    shelf: Shelf,
    report: Reporter,
) -> tuple[dict[str, list[Reply]], dict[str, Starts]]:
    """Every arm's replies to the same prompts, and what was read where they start."""
    room, template = context_length(model), ChatTemplate(tokenizer)
    sequences = template.render_all(prompts, None if room is None else room - tokens)
    onlooker = StartsOnlooker(model, sequences, arms, shelf)
    replies = compare_replies(
        model,
        tokenizer,
        sequences,
        template.reply_start,
        arms,
        report,
        max_new_tokens=tokens,
        shelf=shelf,
        description=f"Replies of up to {tokens} tokens, {len(arms)} arms",
        onlooker=onlooker,
    )
    return replies, onlooker.starts


def _outcome(
    suite: Suite,
    replies: Mapping[str, tuple[Reply, ...]],
    starts: Mapping[str, Starts],
    judged: Judged,
    fluent: Mapping[str, tuple[bool, ...]],
) -> Outcome:
    right = {
        "maths": lambda text, prompt: right_number(text, prompt.answer),
        "choice": lambda text, prompt: right_choice(text, prompt.answer, prompt.choices),
    }.get(suite.metric)
    marks: dict[str, dict[str, tuple[bool | None, ...]]] = {}
    for arm, given in replies.items():
        marks[arm] = {
            "refusal": judged.refusals[arm],
            "identical": tuple(a.tokens == b.tokens for a, b in zip(given, replies[VANILLA], strict=True)),
        }
        if suite.metric != "choice":  # a letter is a reply there
            marks[arm]["coherent"] = tuple(
                None if is_thinking(reply.text) else is_coherent(reply.text) and known
                for reply, known in zip(given, fluent[arm], strict=True)
            )
        if right is not None:
            marks[arm]["accuracy"] = tuple(
                right(reply.text, prompt) for reply, prompt in zip(given, suite.prompts, strict=True)
            )
    return Outcome(suite, replies, marks, starts, judged.wins, judged.tokens)
