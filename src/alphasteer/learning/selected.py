"""What a choice of a push comes to, and why it was chosen."""

from dataclasses import dataclass

from alphasteer.learning.push_choice import Trial
from alphasteer.steering import Steering

FULL_REPLY = 48
"""Tokens of a reply by which candidates would be judged without stages: as long as ``alphasteer eval`` takes."""


@dataclass(frozen=True)
class Selected:
    """The chosen push and how it was found.

    Attributes:
        steering: what it makes of the gate, without a record.
        finalists: judged by short replies, the chosen one first.
        searched: the search's tries, best first.
        before: share of the finalists' probes refused without steering.
        tokens: forward tokens that this run of the selection took, replies and gradient steps included.
        full: what judging every candidate by full replies would have taken.
        altered: how many held-out benign prompts that open the gate were looked at, as to how far pushes move them.
    """

    steering: Steering
    finalists: list[Trial]
    searched: list[Trial]
    before: float
    tokens: int
    full: int
    altered: int = 0

    @property
    def reason(self) -> str:
        """Why this push, in a sentence."""
        best, others = self.finalists[0], self.finalists[1:]
        told = (
            f"Layers {best.first} to {best.last}, {best.strength:g} times the direction of {best.rule}: refused "
            f"{best.refused:.0%} of {best.probes} held-out malicious requests ({self.before:.0%} unsteered), "
            f"{best.coherent:.0%} of the replies coherent"
        )
        if best.divergence is not None:
            moved = f"{self.altered} held-out benign prompts that open the gate moved by {best.divergence:.1f} nats"
            told += f", {moved if self.altered else 'no held-out benign prompt opens the gate'}"
        if not others:
            return f"{told}; the only finalist."
        told += f"; the next best of {len(others) + 1} finalists refused {others[0].refused:.0%}"
        if others[0].refused > best.refused:
            return f"{told}, but moves those benign prompts too far."
        return f"{told}{', but less coherently or by a stronger push' if others[0].refused == best.refused else ''}."
