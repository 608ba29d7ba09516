"""Prompts in chats: which stand alone, and what may stand before the others."""

import pytest
from conftest import CHATML, tiny_tokenizer

from alphasteer.prompts import ChatTemplate, Prompt, PromptSet, in_contexts
from alphasteer.prompts.starter import starter_contexts

PROMPTS = PromptSet.of([f"tell me about {n}" for n in range(400)])
REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system prompts') }}{% endif %}" + CHATML
FORGETFUL = CHATML.replace(
    "{% for", "{% if messages[0]['role'] == 'system' %}{% set messages = messages[1:] %}{% endif %}{% for"
)


def template(text=CHATML):
    return ChatTemplate(tiny_tokenizer(text))


def test_half_stay_alone_and_the_rest_stand_in_chats_of_the_split():
    placed = in_contexts(template(), 0)(PROMPTS, "fit")
    before = [prompt.messages[:-1] for prompt in placed]
    assert [prompt.messages[-1] for prompt in placed] == [prompt.messages[-1] for prompt in PROMPTS]
    assert before.count(()) / len(before) == pytest.approx(0.5, abs=0.1)
    kinds = [tuple(turn["role"] for turn in turns) for turns in before]
    assert set(kinds) == {(), ("system",), ("user", "assistant"), ("system", "user", "assistant")}
    texts = {turn["content"] for turns in before for turn in turns}
    assert texts <= {turn["content"] for turns in starter_contexts("fit") for turn in turns}
    assert not texts & {turn["content"] for turns in starter_contexts("validation") for turn in turns}


def test_the_other_half_stands_in_chats_where_the_first_stays_alone():
    first, other = (in_contexts(template(), 0, other_half=half)(PROMPTS, "fit") for half in (False, True))
    assert all((len(a.messages) > 1) != (len(b.messages) > 1) for a, b in zip(first, other, strict=True))
    before = [prompt.messages[:-1] for prompt in other]
    assert {tuple(turn["role"] for turn in turns) for turns in before} == {
        (),
        ("system",),
        ("user", "assistant"),
        ("system", "user", "assistant"),
    }


def test_adding_prompts_moves_no_other_one_and_a_seed_draws_anew():
    place = in_contexts(template(), 0)
    whole, part = place(PROMPTS, "fit"), place(PROMPTS.where(lambda prompt: "7" in prompt.text), "fit")
    assert all(prompt in whole.prompts for prompt in part)
    assert in_contexts(template(), 1)(PROMPTS, "fit") != whole


def test_a_chat_that_comes_with_turns_stays_as_it_is():
    turns = ({"role": "system", "content": "x"}, {"role": "user", "content": "y"})
    chats = PromptSet.of([Prompt(str(n), (*turns[:-1], {"role": "user", "content": f"{n}"})) for n in range(40)])
    assert in_contexts(template(), 0)(chats, "fit") == chats


def test_a_prompt_stays_alone_where_its_chat_would_not_fit():
    of = template()
    free = in_contexts(of, 0)(PROMPTS, "fit")
    lengths = [len(of.render(prompt)) for prompt in free]
    room = sorted(lengths)[300]
    for prompt, chat, length, placed in zip(
        PROMPTS, free, lengths, in_contexts(of, 0, room)(PROMPTS, "fit"), strict=True
    ):
        assert placed == (chat if length <= room else prompt)


@pytest.mark.parametrize("text", [REFUSING, FORGETFUL], ids=["refuses", "forgets"])
def test_templates_without_a_place_for_a_system_prompt_get_none(text):
    assert template().takes_system()
    assert not template(text).takes_system()
    roles = {turn["role"] for prompt in in_contexts(template(text), 0)(PROMPTS, "fit") for turn in prompt.messages}
    assert roles == {"user", "assistant"}
