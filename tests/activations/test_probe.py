"""The self-test in an artefact: what its gates read from one prompt, to be found again wherever it is served."""

import pytest
import torch
from conftest import hand_made

from alphasteer.activations import with_self_test
from alphasteer.prompts import ChatTemplate
from alphasteer.steering import Steering


def test_the_stored_scores_are_what_the_attached_gates_read(llama, tokenizer, tmp_path):
    template = ChatTemplate(tokenizer)
    with_self_test(llama, tokenizer, hand_made(llama, template.reply_start)).save_pretrained(tmp_path)
    steering = Steering.from_pretrained(tmp_path)
    stored = steering.record["self_test"]
    assert tuple(stored["tokens"][-len(template.reply_start) :]) == template.reply_start
    with steering.attach(llama) as attached, torch.inference_mode():
        llama(torch.tensor([stored["tokens"]]))
        assert [float(gate.scores[0]) for gate in attached.last_gates] == pytest.approx(stored["scores"], rel=1e-5)
