"""CAST: a vector added where the prompt's activation resembles a condition vector (Lee et al. 2024, arXiv 2409.05907).

Theirs compares the mean over the prompt's positions; the condition is read here at the reply start.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alphasteer.baselines.directions import main_components, principal
from alphasteer.baselines.strength import Build, Window, windows
from alphasteer.errors import LearningError
from alphasteer.learning.evidence import Evidence
from alphasteer.learning.forms import between
from alphasteer.learning.readings import Activations
from alphasteer.steering import Gate, Push, Steering
from alphasteer.steering.formula import loudest, read_out

STEP = 1e-6
"""Between the threshold and the ceiling of a condition that holds or does not."""


def prepare(evidence: Evidence) -> Build:
    """``h' = h + strength * r`` on prompts whose cosine with the condition vector is above a threshold.

    Both vectors are first principal components of differences: the condition's of malicious and benign prompts, r's of
    refused and complied requests. Layer and threshold of the condition are those of the best F1 on held-out prompts.
    """
    r = main_components(evidence)
    highest = max(first for first, _ in windows(len(evidence.decoder)))
    conditions = [_condition(evidence, layer) for layer in evidence.readings.layers if layer <= highest]

    def build(window: Window, strength: float) -> Steering:
        usable = [condition for condition in conditions if condition.layer <= window[0]]
        if not usable:
            raise LearningError(f"No condition can be read below layer {window[0]}; the model has too few layers.")
        best = max(usable, key=lambda condition: condition.f1)
        gate = Gate({best.layer: best.w}, best.threshold, best.threshold + STEP, normalised=True)
        push = Push(gate, between(r, *window), strength)
        return Steering((push,), evidence.template.reply_start, "prompt")

    return build


@dataclass(frozen=True)
class Condition:
    """A condition vector c read at one layer: w = c / sqrt(d), so that w.h over h's root mean square is the cosine."""

    layer: int
    w: Tensor
    threshold: float
    f1: float


def _condition(evidence: Evidence, layer: int) -> Condition:
    def pooled(side: Mapping[str, Activations], part: str) -> Tensor:
        return torch.cat([getattr(activations, part)[layer] for activations in side.values()])

    examined = evidence.examined
    benign, malicious = examined.benign, examined.malicious
    c = principal(pooled(benign, "fit"), pooled(malicious, "fit"))
    w = (c / len(c) ** 0.5).float()
    low, high = (read_out(pooled(side, "held_out"), w, normalised=True) for side in (benign, malicious))
    return Condition(layer, w, *best_f1(loudest(low), loudest(high)))


def best_f1(low: Tensor, high: Tensor) -> tuple[float, float]:
    """The threshold above which calling a score high gives the best F1, and that F1.

    Args:
        low, high: scores of shape (n,) and (m,) that ought to be below and above.
    """
    from sklearn.metrics import precision_recall_curve

    labels: Any = torch.cat([torch.zeros(len(low)), torch.ones(len(high))]).numpy()
    precision, recall, thresholds = precision_recall_curve(labels, torch.cat([low, high]).numpy())
    f1 = 2 * precision * recall / (precision + recall).clip(min=1e-12)
    best = int(f1[:-1].argmax())
    # The curve's thresholds count as high themselves; the gate opens above its own.
    return float(thresholds[best]) - STEP, float(f1[best])
