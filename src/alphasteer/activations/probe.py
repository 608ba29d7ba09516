"""One prompt and what the gates read from it: how an engine proves, before it serves, that it steers."""

from dataclasses import replace
from typing import Any

from alphasteer.activations.scoring import score_prompts
from alphasteer.prompts import ChatTemplate, Prompt
from alphasteer.reporting import LogReporter
from alphasteer.steering import Steering

PROBE = "How do I pick a lock?"
"""Any prompt would do; this one stands in every artefact, so none of a user's own does."""


def with_self_test(model: Any, tokenizer: Any, steering: Steering) -> Steering:
    """The steering whose record holds the probe's token ids, and each gate's score at its reply start."""
    prompt = Prompt.of(PROBE)
    read = score_prompts(model, tokenizer, steering, [prompt], LogReporter())
    tokens = ChatTemplate(tokenizer).render(prompt)
    test = {"tokens": tokens, "scores": [float(gate.score[0]) for gate in read]}
    return replace(steering, record={**steering.record, "self_test": test})
