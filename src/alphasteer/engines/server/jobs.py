"""One reply to be written: what is asked, and what has come of it so far."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from alphasteer.engines.protocol import GateReport

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Piece:
    """Text that has come; the last one carries why it ended, what the gates read, and how many tokens it took."""

    text: str
    finish: Finish | None = None
    gates: tuple[GateReport, ...] = ()
    tokens: int = 0


@dataclass
class Job:
    """A request on its way through a batch.

    Attributes:
        prompt: token ids, ending at the reply start.
        most_tokens: the reply's length at most.
        temperature: 0 for greedy replies.
        top_p: of sampling, the share of likeliest tokens that is drawn from.
        seed: of sampling; each request draws by itself, whoever shares its batch.
        stop: strings that end the reply and are left out of it.
        strength: factor on the fitted strength.
        cancelled: set by whoever no longer wants it.
        emit: is given every ``Piece``, or the error that ended it all, in the engine's thread.
    """

    prompt: list[int]
    most_tokens: int
    emit: Callable[[Piece | Exception], None]
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    strength: float = 1.0
    cancelled: threading.Event = field(default_factory=threading.Event)
    finish: Finish | None = None
    gates: tuple[GateReport, ...] = ()
    tokens: list[int] = field(default_factory=list)
    _sent: str = ""
    _generator: torch.Generator | None = None

    def choose(self, logits: Tensor) -> int:
        """The next token, from logits of shape (vocabulary,)."""
        if self.temperature == 0.0:
            return int(logits.argmax())
        odds = (logits.float().cpu() / self.temperature).softmax(-1)
        ranked, order = odds.sort(descending=True)
        ranked[ranked.cumsum(0) - ranked >= self.top_p] = 0.0  # the likeliest one always stays
        if self._generator is None:
            self._generator = torch.Generator()
            if self.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self.seed)
        return int(order[torch.multinomial(ranked, 1, generator=self._generator)])

    def take(self, token: int, tokenizer: Any, ends: set[int]) -> None:
        """Add a token: send the text that is certain by now, and see whether the reply has ended."""
        self.tokens.append(token)
        if self.cancelled.is_set():
            self.finish = "cancelled"
        elif token in ends:
            self.finish = "stop"
        elif len(self.tokens) >= self.most_tokens:
            self.finish = "length"
        text = tokenizer.decode(self.tokens, skip_special_tokens=True)
        found = min((place for word in self.stop if (place := text.find(word)) >= 0), default=-1)
        if found >= 0:
            text, self.finish = text[:found], "stop"
        elif self.finish is None:
            text = text[: len(text) - self._uncertain(text)]
        new = text[len(self._sent) :]
        self._sent += new
        if self.finish is not None:
            self.emit(Piece(new, self.finish, self.gates, len(self.tokens)))
        elif new:
            self.emit(Piece(new))

    def _uncertain(self, text: str) -> int:
        """How many characters at the end may still change: half a character, or the beginning of a stop string."""
        held = len(text) - len(text.rstrip("\ufffd"))
        for word in self.stop:
            for length in range(min(len(word) - 1, len(text)), held, -1):
                if text.endswith(word[:length]):
                    held = length
                    break
        return held
