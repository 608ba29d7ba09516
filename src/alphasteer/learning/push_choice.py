"""Which layers are pushed, how far and along which direction: tried on held-out malicious requests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from alphasteer.learning.settings import FitSettings
from alphasteer.replies import PrefilledPrompts, refuses
from alphasteer.reporting import Reporter
from alphasteer.steering import Steering

STRENGTHS = (0.7, 1.0, 1.4)
FINALISTS = 8


@dataclass(frozen=True)
class Trial:
    """One way to push, and what it did to the probe requests.

    Attributes:
        rule: the contrast whose direction is pushed along (see ``contrast``).
        first, last: the pushed layers.
        strength: factor on the direction.
        opening: mean chance, by its first token, that a reply is a refusal.
        refused: share of short replies judged to refuse; None where only the first token was looked at.
    """

    rule: str
    first: int
    last: int
    strength: float
    opening: float = 0.0
    refused: float | None = None


def possible_pushes(gate_layer: int, layers: int, rules: Sequence[str], settings: FitSettings) -> list[Trial]:
    """Windows that begin in the quarter of the layers above the gate and end in the last quarter."""
    step = max(1, round(layers / 12))
    if settings.window is not None:
        windows = [settings.window]
    else:
        firsts = [n for n in range(gate_layer, gate_layer + 3 * step + 1, step) if n < layers]
        lasts = [n for n in range(layers - 1, layers - 2 - 3 * step, -step) if n > gate_layer]
        windows = [(first, last) for first in firsts for last in lasts if first < last] or [(gate_layer, layers - 1)]
    strengths = STRENGTHS if settings.strength is None else (settings.strength,)
    return [Trial(rule, first, last, s) for rule in rules for first, last in windows for s in strengths]


def refusal_openings(refused: Sequence[int], complied: Sequence[int], vocabulary: int) -> Tensor:
    """By token, the chance that a reply that opens with it is a refusal, of shape (vocabulary,).

    Counted among the model's own replies, both kinds weighing the same; tokens that open none count as zero.

    Args:
        refused, complied: first tokens of replies of either kind.
    """
    counts = torch.zeros(2, vocabulary)
    for row, tokens in enumerate((refused, complied)):
        if tokens:
            counts[row] = torch.bincount(torch.tensor(list(tokens)), minlength=vocabulary) / len(tokens)
    return counts[0] / counts.sum(0).clamp(min=1e-12)


def choose_push(
    model: Any,
    probes: PrefilledPrompts,
    trials: Sequence[Trial],
    build: Callable[[Trial], Steering],
    openings: Tensor,
    settings: FitSettings,
    report: Reporter,
) -> list[Trial]:
    """Try the pushes: all of them by the reply's first token, the best by short replies. Best first.

    The best is the one with most refusals, a repetitive reply being none; then the likelier first tokens decide.
    """
    tried = []
    for trial in report.track(((t, 1) for t in trials), "Trying pushes, first token", len(trials)):
        with build(trial).attach(model):
            tried.append(replace(trial, opening=float((probes.first_token() @ openings).mean())))
    tried.sort(key=lambda t: -t.opening)
    finalists, rest = tried[:FINALISTS], tried[FINALISTS:]
    judged = []
    for trial in report.track(((t, 1) for t in finalists), "Trying pushes, short replies", len(finalists)):
        with build(trial).attach(model):
            replies = probes.replies(settings.reply_tokens)
        judged.append(replace(trial, refused=sum(refuses(reply.text) for reply in replies) / len(replies)))
    judged.sort(key=lambda t: (-(t.refused or 0.0), -t.opening))
    return judged + rest


def mean_direction(directions: Sequence[Mapping[int, Tensor]]) -> dict[int, Tensor]:
    """The mean of several directions, layer by layer."""
    return {layer: torch.stack([d[layer] for d in directions]).mean(0) for layer in directions[0]}
