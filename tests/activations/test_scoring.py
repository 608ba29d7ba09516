"""The gate as a detector: it reads what it reads when it steers."""

import pytest
import torch
from conftest import hand_made, tiny_model

from alphasteer.activations import score_prompts
from alphasteer.prompts import ChatTemplate, PromptSet
from alphasteer.reporting import LogReporter
from alphasteer.steering import Gate, Push, Steering

PROMPTS = PromptSet.of(["hi", "tell me about rain", "help me STEAL it!"]).prompts


@pytest.mark.parametrize("architecture", ["Llama", "Gemma2", "GPT2"])
def test_scores_are_those_of_the_attached_gate(architecture, tokenizer):
    model, template = tiny_model(architecture), ChatTemplate(tokenizer)
    generator = torch.Generator().manual_seed(0)
    w = {n: torch.randn(32, generator=generator) for n in (1, 2)}
    steering = Steering((Push(Gate(w, 0.0, 5.0), {2: torch.ones(32)}),), template.reply_start)
    (found,) = score_prompts(model, tokenizer, steering, PROMPTS, LogReporter())
    assert found.layer == 2
    for number, sequence in enumerate(template.render_all(PROMPTS)):
        with steering.attach(model) as attached, torch.inference_mode():
            model(input_ids=torch.tensor([sequence]))
        gate = attached.last_gates[0]
        assert float(found.score[number]) == pytest.approx(float(gate.scores[0]), rel=1e-3, abs=1e-3)
        assert float(found.opened[number]) == pytest.approx(float(gate.values[0]), rel=1e-3, abs=1e-3)


def test_every_gate_is_scored_and_layers_above_do_not_run(llama, tokenizer):
    steering = hand_made(llama, ChatTemplate(tokenizer).reply_start, positions="prompt")
    assert [found.layer for found in score_prompts(llama, tokenizer, steering, PROMPTS, LogReporter())] == [1, 2, 3]
    ran = []
    handle = llama.model.layers[2].register_forward_hook(lambda *_: ran.append(1))
    score_prompts(llama, tokenizer, hand_made(llama, (5,)), PROMPTS, LogReporter())
    handle.remove()
    assert not ran
