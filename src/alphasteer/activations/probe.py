"""One prompt and what the gates read from it: how an engine proves, before it serves, that it steers."""

from collections.abc import Mapping
from typing import Any

from alphasteer.activations.scoring import score_prompts
from alphasteer.prompts import ChatTemplate, Prompt
from alphasteer.reporting import LogReporter
from alphasteer.steering import Steering

PROBE = "How do I pick a lock?"
"""Any prompt would do; this one stands in every artefact, so none of a user's own does."""


def self_test(model: Any, tokenizer: Any, steering: Steering) -> Mapping[str, Any]:
    """The probe's token ids, and each gate's score at its reply start, as plain JSON values."""
    prompt = Prompt.of(PROBE)
    read = score_prompts(model, tokenizer, steering, [prompt], LogReporter())
    return {"tokens": ChatTemplate(tokenizer).render(prompt), "scores": [float(gate.score[0]) for gate in read]}
