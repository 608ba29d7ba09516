"""The gate as a detector: what it reads from prompts, without a reply."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from alphasteer.activations.reading import read_residual_stream
from alphasteer.models import context_length, find_decoder
from alphasteer.prompts import ChatTemplate, Prompt
from alphasteer.reporting import Reporter
from alphasteer.steering import Steering
from alphasteer.steering.formula import gate_score, gate_value


@dataclass(frozen=True)
class GateScores:
    """What one gate reads where the prompts' replies start.

    Attributes:
        layer: the gate's highest layer, where it decides.
        score: what the gate reads (see ``formula.gate_score``), of shape (n,).
        opened: how far it opens, of shape (n,); at 0 nothing is pushed (linear gates open either way).
    """

    layer: int
    score: Tensor
    opened: Tensor


def score_prompts(
    model: Any, tokenizer: Any, steering: Steering, prompts: Sequence[Prompt], report: Reporter
) -> tuple[GateScores, ...]:
    """What every gate of a steering reads from prompts; layers above the highest gate do not run.

    Of gates that read above pushed layers (the paper's form), what they would read of the unsteered model.

    Raises:
        PromptError: if a prompt is longer than the model's context.
    """
    layers = sorted({layer for push in steering.pushes for layer in push.gate.w})
    sequences = ChatTemplate(tokenizer).render_all(prompts, context_length(model))
    end, kept_back = steering.prompt_end, len(steering.reply_start)
    spans = None if end is None else [end.span(tokens, kept_back) for tokens in sequences]
    streams = read_residual_stream(
        model, find_decoder(model), sequences, layers, report, spans=spans, description="Reading the gates"
    )
    found = []
    for push in steering.pushes:
        gate = push.gate
        score = gate_score(streams, gate.w, gate.normalised)
        found.append(GateScores(gate.layer, score, gate_value(score, gate.threshold, gate.ceiling)))
    return tuple(found)
