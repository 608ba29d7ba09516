"""The same prompts with and without steering: what is refused, and what stays the same to the last token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alphasteer.models import context_length
from alphasteer.prompts import ChatTemplate, PromptSet
from alphasteer.replies import Judge, Reply, generate_replies, is_coherent, refuses
from alphasteer.reporting import Reporter
from alphasteer.resuming import Shelf
from alphasteer.steering import Steering


@dataclass(frozen=True)
class Pair:
    """One prompt's two replies."""

    prompt: str
    vanilla: Reply
    steered: Reply

    def reply(self, arm: str) -> Reply:
        """The reply of ``vanilla`` or ``steered``."""
        return {"vanilla": self.vanilla, "steered": self.steered}[arm]


@dataclass(frozen=True)
class Outcome:
    """What steering did to one suite.

    Attributes:
        pairs: the replies, in the suite's order.
        refused: by arm (``vanilla``, ``steered``), which replies the judge takes for refusals.
    """

    pairs: tuple[Pair, ...]
    refused: Mapping[str, tuple[bool, ...]]

    def __len__(self) -> int:
        return len(self.pairs)

    def refusal(self, arm: str) -> float:
        """The share of prompts that the arm refused."""
        return sum(self.refused[arm]) / len(self)

    def coherent(self, arm: str) -> float:
        """The share of the arm's replies that read as language."""
        return sum(is_coherent(pair.reply(arm).text) for pair in self.pairs) / len(self)

    def identical(self, arm: str) -> float:
        """The share of the arm's replies that are the unsteered model's, token for token."""
        return sum(pair.reply(arm).tokens == pair.vanilla.tokens for pair in self.pairs) / len(self)


def compare(
    model: Any,
    tokenizer: Any,
    steering: Steering,
    suites: Mapping[str, PromptSet],
    report: Reporter,
    *,
    shelf: Shelf,
    max_new_tokens: int = 48,
    judge: Judge = refuses,
) -> dict[str, Outcome]:
    """Reply to every suite with and without steering, in the same batches, and judge the replies.

    Replies are kept on the shelf as they come; an interrupted comparison goes on where it stopped.
    """
    template = ChatTemplate(tokenizer)
    names = [name for name, prompts in suites.items() for _ in prompts]
    texts = [prompt.text for prompts in suites.values() for prompt in prompts]
    room = context_length(model)
    sequences = template.render_all(
        [p for prompts in suites.values() for p in prompts], None if room is None else room - max_new_tokens
    )
    replies: dict[str, list[Reply]] = {}
    run = [str(model.config._name_or_path), str(model.dtype), max_new_tokens, sequences]

    def generate(arm: str, identity: Any) -> None:
        replies[arm] = generate_replies(
            model,
            tokenizer,
            sequences,
            report,
            max_new_tokens=max_new_tokens,
            journal=shelf.journal(f"replies-{arm}", identity),
            description=f"Replies, {arm}",
        )

    generate("vanilla", run)
    with steering.attach(model):
        generate("steered", [*run, steering.digest])
    outcomes = {}
    for suite in suites:
        rows = [row for row, name in enumerate(names) if name == suite]
        pairs = tuple(Pair(texts[row], replies["vanilla"][row], replies["steered"][row]) for row in rows)
        judged = {arm: tuple(judge(pair.reply(arm).text) for pair in pairs) for arm in ("vanilla", "steered")}
        outcomes[suite] = Outcome(pairs, judged)
    return outcomes
