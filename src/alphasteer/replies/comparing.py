"""The same prompts under several steerings, batch by batch: what they share runs once."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from alphasteer.models import loaded_digest
from alphasteer.prompts import tracked_batches
from alphasteer.replies.generating import ROWS, TOKEN_BUDGET, Reply
from alphasteer.replies.prefilled import PrefilledPrompts
from alphasteer.reporting import LogReporter, Reporter
from alphasteer.resuming import Shelf
from alphasteer.steering import Attached, Steering


class Onlooker(Protocol):
    """Looks on while arms reply, so that what else is to be known of these forwards needs none of its own."""

    def knows(self, arm: str, batch: Sequence[int]) -> bool:
        """Whether an earlier run has seen this arm on these prompts."""

    def watch(self, arm: str, batch: Sequence[int], attached: Attached | None) -> AbstractContextManager[None]:
        """Around the arm's replies to these prompts, which run together, in this order; unsteered ones come first."""


def compare_replies(
    model: Any,
    tokenizer: Any,
    sequences: Sequence[Sequence[int]],
    reply_start: Sequence[int],
    arms: Mapping[str, Steering | None],
    report: Reporter,
    *,
    max_new_tokens: int,
    shelf: Shelf,
    description: str,
    onlooker: Onlooker | None = None,
) -> dict[str, list[Reply]]:
    """Greedy replies under each arm, in the order of the prompts; every arm gets the same batches.

    Prompts run once for all arms where every arm acts at reply starts only, else once an arm: one path for all, so
    that replies differ by the steering alone. Replies are kept on the shelf batch by batch. A batch is generated again
    unless it is known whole, so every batch holds the same prompts in every run. An onlooker compares with the
    unsteered model: where that one's replies are known, their first token alone is generated again.

    Args:
        sequences: the rendered prompts' token ids, each ending with the reply start.
        arms: steerings by name, None for the model as it is.
        max_new_tokens: a reply's length at most.
        onlooker: sees the arms' forwards.
    """
    reuse = all(steering is None or steering.positions == "reply_start" for steering in arms.values())
    same = [loaded_digest(model), str(model.dtype), max_new_tokens, reuse, sequences]
    journals = {arm: shelf.journal("replies", [*same, given and given.digest]) for arm, given in arms.items()}
    lengths = [len(sequence) + max_new_tokens for sequence in sequences]

    def known(arm: str, batch: Sequence[int]) -> bool:
        return all(i in journals[arm].entries for i in batch) and (onlooker is None or onlooker.knows(arm, batch))

    for batch in report.track(tracked_batches(lengths, TOKEN_BUDGET, ROWS), description, sum(lengths)):
        missing = [arm for arm in arms if not known(arm, batch)]
        if not missing:
            continue
        prompts = PrefilledPrompts(
            model,
            tokenizer,
            [sequences[i] for i in batch],
            reply_start,
            LogReporter(),
            reuse=reuse,
            readers=[given for arm in missing if (given := arms[arm]) is not None],
        )
        for arm, steering in sorted(arms.items(), key=lambda item: item[1] is not None):
            if arm not in missing and (onlooker is None or steering is not None):
                continue
            with (
                nullcontext() if steering is None else steering.attach(model) as attached,
                nullcontext() if onlooker is None else onlooker.watch(arm, batch, attached),
            ):
                replies = prompts.replies(max_new_tokens if arm in missing else 1)
            if arm in missing:
                journals[arm].add({i: (reply.tokens, reply.text) for i, reply in zip(batch, replies, strict=True)})
    found = {arm: [journal.entries[i] for i in range(len(sequences))] for arm, journal in journals.items()}
    return {arm: [Reply(tuple(tokens), text) for tokens, text in kept] for arm, kept in found.items()}
