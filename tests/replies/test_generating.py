"""Batched greedy replies: each is what its prompt gets alone, steered or not."""

import pytest
import torch
from conftest import THINKING, hand_made, tiny_tokenizer
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from alphasteer.prompts import ChatTemplate, Prompt
from alphasteer.replies import PrefilledPrompts, generate_replies
from alphasteer.replies.judging import spoken
from alphasteer.reporting import LogReporter

REPORT = LogReporter()


def test_each_reply_is_what_its_prompt_gets_alone(llama, tokenizer, sequences):
    together = generate_replies(llama, tokenizer, sequences, REPORT, max_new_tokens=8)
    alone = [generate_replies(llama, tokenizer, [s], REPORT, max_new_tokens=8)[0] for s in sequences]
    assert together == alone
    ids = torch.tensor([sequences[1]])
    plain = llama.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8)
    assert list(together[1].tokens) == plain[0, ids.shape[1] :].tolist()


def test_prefilled_prompts_of_any_architecture_reply_as_prompts_do(any_model, tokenizer, sequences):
    """Also where what all prompts begin with ran once for all, and where a sliding window forbids that."""
    marker = ChatTemplate(tokenizer).reply_start
    plain = generate_replies(any_model, tokenizer, sequences, REPORT, max_new_tokens=6)
    ran = []
    handle = any_model.register_forward_pre_hook(
        lambda _, __, inputs: ran.append(inputs["input_ids"]), with_kwargs=True
    )
    prefilled = PrefilledPrompts(any_model, tokenizer, sequences, marker, REPORT)
    handle.remove()
    assert prefilled.replies(6) == plain
    cache = DynamicCache(config=any_model.config)
    once = all(type(layer) is DynamicLayer for layer in cache.layers)
    assert [ids.shape[0] for ids in ran] == ([1, 5] if once else [5])
    with hand_made(any_model, marker).attach(any_model):
        steered = generate_replies(any_model, tokenizer, sequences, REPORT, max_new_tokens=6)
        assert prefilled.replies(6) == steered


@pytest.mark.parametrize("positions", ["reply_start", "prompt"])
def test_prefilled_prompts_reply_as_prompts_do(llama, tokenizer, sequences, positions):
    marker = ChatTemplate(tokenizer).reply_start
    prefilled = PrefilledPrompts(llama, tokenizer, sequences, marker, REPORT, reuse=positions == "reply_start")
    plain = generate_replies(llama, tokenizer, sequences, REPORT, max_new_tokens=8)
    assert prefilled.replies(8) == plain
    with hand_made(llama, marker, positions=positions).attach(llama):
        steered = generate_replies(llama, tokenizer, sequences, REPORT, max_new_tokens=8)
        assert prefilled.replies(8) == steered
    assert steered != plain
    assert prefilled.replies(8) == plain, "trying a steering must leave the kept cache as it was"


def test_a_thought_that_the_template_opens_is_the_replys(llama):
    """Cut off within it, a reply was once judged by what the model thought."""
    thinking = tiny_tokenizer(THINKING)
    chat, plain = ChatTemplate(thinking), ChatTemplate(tiny_tokenizer())
    for template, opened in ((chat, True), (plain, False)):
        ids = [template.render(Prompt.of("Hello"))]
        (reply,) = generate_replies(llama, thinking, ids, REPORT, max_new_tokens=4)
        assert reply.text.startswith("<think>") is opened
        assert PrefilledPrompts(llama, thinking, ids, template.reply_start, REPORT).replies(4) == [reply]
        assert bool(spoken(reply.text)) is not opened
