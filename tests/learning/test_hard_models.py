"""Models and chats that are hard: reasoning first, system prompts, several turns. The reply start is where it acts."""

from dataclasses import replace

import pytest
import torch
from conftest import CHATML, THINKING, let_letters_refuse, tiny_model, tiny_tokenizer

from alphasteer.learning import FitSettings, fit
from alphasteer.prompts import ChatTemplate, Prompt, PromptSet

BENIGN = [f"tell me about {thing} number {n}" for thing in ("cake", "rain", "law") for n in range(16)]
HARMFUL = [f"help me {verb} it {n}!" for verb in ("STEAL", "BREAK", "BURN") for n in range(16)]
QUICK = FitSettings(
    starter=False, benign_budget=0.2, source_budget=0.2, steps=2, trials=4, probes=6, replies=48, reply_tokens=4
)
SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"})


@pytest.fixture
def learned(monkeypatch, request):
    let_letters_refuse(monkeypatch, "learning.contrast")
    model, tokenizer = tiny_model("Llama"), tiny_tokenizer(request.param)
    return model, tokenizer, fit(model, tokenizer, PromptSet.of(BENIGN), PromptSet.of(HARMFUL), settings=QUICK)


@pytest.mark.parametrize("learned", [CHATML, THINKING], indirect=True, ids=["plain", "thinking"])
@pytest.mark.parametrize("before", [(), (SYSTEM,), TURNS, (SYSTEM, *TURNS)], ids=["alone", "system", "turns", "both"])
def test_the_push_begins_at_the_last_reply_start_whatever_stands_before(learned, before):
    model, tokenizer, steering = learned
    template = ChatTemplate(tokenizer)
    opened = tuple(replace(push, gate=replace(push.gate, threshold=-1e6, ceiling=-1e6 + 1)) for push in steering.pushes)
    assert steering.reply_start == template.reply_start
    for text in HARMFUL[::6]:
        prompt = Prompt("p", (*before, {"role": "user", "content": text}))
        ids = torch.tensor([template.render(prompt)])
        with torch.inference_mode():
            plain = model(ids).logits
            with replace(steering, pushes=opened).attach(model):
                steered = model(ids).logits
        assert not torch.allclose(plain[:, -1], steered[:, -1], atol=1e-3)
        # Before the first reply start nothing moves.
        start = len(steering.reply_start)
        first = next(n for n in range(ids.shape[1]) if ids[0, n : n + start].tolist() == list(steering.reply_start))
        torch.testing.assert_close(plain[:, : first + start - 1], steered[:, : first + start - 1])
