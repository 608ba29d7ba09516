"""Surgical: the refusal vector without its false-refusal part (Wang et al. 2024, arXiv 2410.03415).

Theirs ablates the false-refusal vector, made orthogonal to the true one; for a vector that is added this means to
take from it what it shares with false refusal.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alphasteer.baselines.constant import ungated
from alphasteer.baselines.directions import means_apart
from alphasteer.baselines.strength import Build
from alphasteer.learning import refusal_direction
from alphasteer.learning.evidence import Evidence
from alphasteer.learning.forms import between
from alphasteer.prompts import Prompt
from alphasteer.replies import answers, refuses

FEWEST = 8
FURTHEST = 0.1
"""Where the model refuses hardly any benign prompt: this share of them, furthest along r, stands for those."""


def prepare(evidence: Evidence) -> Build:
    """``h' = h + strength * r'`` on every prompt, r' orthogonal to the direction of false refusal."""
    r, false = means_apart(evidence), false_refusal(evidence)
    clean = {n: without(r[n], false[n]) for n in evidence.readings.layers}
    return lambda window, strength: ungated(evidence, between(clean, *window), strength)


def without(r: Tensor, false: Tensor) -> Tensor:
    """The vector minus its part along ``false``, both of shape (d,)."""
    return r - (r @ false) / (false @ false) * false


def false_refusal(evidence: Evidence) -> Mapping[int, Tensor]:
    """By layer, the mean of benign prompts that the model refuses minus the mean of those that it answers."""
    benign = evidence.sample(evidence.examples.benign, evidence.settings.replies)
    replies = evidence.short_replies(benign, "benign prompts")
    refused = [p for p, reply in zip(benign, replies, strict=True) if refuses(reply.text)]
    if len(refused) < FEWEST:
        refused = _furthest(evidence, benign)
    kept = {prompt.key for prompt in refused}
    answered = [p for p, a in zip(benign, replies, strict=True) if p.key not in kept and answers(a.text)]
    high, low = (evidence.readings.of(side, "benign prompts") for side in (refused, answered))
    return {n: refusal_direction(high[n], low[n]) for n in evidence.readings.layers}


def _furthest(evidence: Evidence, benign: Sequence[Prompt]) -> list[Prompt]:
    r, streams = means_apart(evidence), evidence.readings.of(benign, "benign prompts")
    middle = evidence.readings.layers[len(evidence.readings.layers) // 2]
    along = streams[middle].double() @ r[middle].double()
    count = min(max(FEWEST, round(FURTHEST * len(benign))), len(benign) // 2)
    return [benign[i] for i in torch.topk(along, count).indices.tolist()]
