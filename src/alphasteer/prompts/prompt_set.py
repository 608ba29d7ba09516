"""Prompts and sets of prompts."""

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from alphasteer.errors import PromptError

Message = Mapping[str, str]
"""One turn of a chat: ``{"role": "system" | "user" | "assistant", "content": text}``."""


@dataclass(frozen=True)
class Prompt:
    """What a user sends: one text, or a whole chat whose last turn awaits a reply.

    Attributes:
        id: unique within its set; splits and stored replies refer to it.
        messages: the chat, oldest turn first.
        category: a hazard category, a kind of task; free text.
        split: ``fit``, ``validation`` or ``test`` where the source fixes one, else empty.
        answer: what a right reply comes to, where the source knows it.
        choices: what there is to choose from, in a multiple-choice question.
    """

    id: str
    messages: tuple[Message, ...]
    category: str = ""
    split: str = ""
    answer: str = ""
    choices: tuple[str, ...] = ()

    @staticmethod
    def of(text: str, id: str | None = None, category: str = "", split: str = "") -> "Prompt":
        """A single user turn; without an id, the text's digest is the id."""
        name = id if id is not None else hashlib.sha256(text.encode()).hexdigest()[:12]
        return Prompt(name, ({"role": "user", "content": text},), category, split)

    @property
    def text(self) -> str:
        """The last turn's text."""
        return self.messages[-1]["content"]

    @property
    def key(self) -> str:
        """The chat as canonical JSON with white space folded, and what there is to choose from.

        Two prompts with one key are duplicates.
        """
        folded = [[turn["role"], " ".join(turn["content"].split())] for turn in self.messages]
        return json.dumps([folded, self.choices] if self.choices else folded, ensure_ascii=False)


@dataclass(frozen=True)
class PromptSet:
    """An ordered set of prompts without duplicates.

    Attributes:
        name: where it came from, for reports.
        prompts: the prompts in source order.
        dropped: how many duplicates the source held.
    """

    name: str
    prompts: tuple[Prompt, ...]
    dropped: int = field(default=0, compare=False)

    @staticmethod
    def of(prompts: Iterable[Prompt | str], name: str = "prompts") -> "PromptSet":
        """Collect prompts or plain texts; later duplicates are dropped and counted.

        Raises:
            PromptError: if there is none, or one has no text.
        """
        kept: dict[str, Prompt] = {}
        seen = 0
        for item in prompts:
            prompt = Prompt.of(item) if isinstance(item, str) else item
            if not prompt.messages or not prompt.text.strip():
                raise PromptError(f"{name}: prompt {prompt.id!r} is empty; remove it or give it a text.")
            seen += 1
            kept.setdefault(prompt.key, prompt)
        if not kept:
            raise PromptError(f"{name} holds no prompts; give it at least one.")
        return PromptSet(name, tuple(kept.values()), seen - len(kept))

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    def limit(self, count: int | None, seed: int = 0) -> "PromptSet":
        """At most ``count`` prompts, drawn once for all by ``seed``, in source order."""
        if count is None or count >= len(self):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self)), count))
        return PromptSet(self.name, tuple(self.prompts[i] for i in chosen), self.dropped)

    def limit_text(self, characters: int, seed: int = 0) -> "PromptSet":
        """As many prompts as hold at most so much text, at least one; drawn by ``seed``, in source order."""
        drawn = random.Random(seed).sample(range(len(self)), len(self))
        sizes = itertools.accumulate(sum(len(turn["content"]) for turn in self.prompts[i].messages) for i in drawn)
        count = sum(size <= characters for size in sizes)
        return PromptSet(self.name, tuple(self.prompts[i] for i in sorted(drawn[: max(1, count)])), self.dropped)

    def first_or_drawn(self, count: int | None, seed: int | None = None) -> "PromptSet":
        """The first ``count`` prompts, or ``count`` drawn by a seed; all without a count."""
        if seed is not None:
            return self.limit(count, seed)
        return PromptSet(self.name, self.prompts[:count], self.dropped)

    def where(self, keep: Callable[[Prompt], bool]) -> "PromptSet":
        """The prompts for which ``keep`` holds; may be empty."""
        return PromptSet(self.name, tuple(p for p in self.prompts if keep(p)), self.dropped)

    def split(self, share: float, seed: int = 0) -> tuple["PromptSet", "PromptSet"]:
        """Hold ``share`` of the prompts out: ``(rest, held_out)``.

        Each prompt is drawn by a digest of its text and the seed, so adding prompts moves no other one.
        """

        def held_out(prompt: Prompt) -> bool:
            digest = hashlib.sha256(f"{seed}:{prompt.key}".encode()).digest()
            return int.from_bytes(digest[:8], "big") < share * 2**64

        return self.where(lambda p: not held_out(p)), self.where(held_out)

    @property
    def digest(self) -> str:
        """SHA-256 over the prompts, whatever their order: what a file says it was fitted on."""
        return hashlib.sha256("\n".join(sorted(p.key for p in self.prompts)).encode()).hexdigest()


def union(sets: Sequence[PromptSet], name: str) -> PromptSet:
    """All prompts of several sets as one, ids made unique by the set's name, duplicates dropped."""
    kept: dict[str, Prompt] = {}
    for source in sets:
        for prompt in source:
            kept.setdefault(prompt.key, replace(prompt, id=f"{source.name}/{prompt.id}"))
    total = sum(len(source) for source in sets)
    return PromptSet(name, tuple(kept.values()), total - len(kept))


def without_shared(
    benign: Sequence[PromptSet], harmful: Sequence[PromptSet]
) -> tuple[list[PromptSet], list[PromptSet], int]:
    """Take the prompts that stand on both sides out of both: a contradiction teaches nothing.

    Returns:
        The two sides, and how many distinct prompts were taken out.
    """
    shared = {p.key for s in benign for p in s} & {p.key for s in harmful for p in s}

    def clean(sets: Sequence[PromptSet]) -> list[PromptSet]:
        return [s.where(lambda p: p.key not in shared) for s in sets]

    return clean(benign), clean(harmful), len(shared)
