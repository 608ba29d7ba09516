"""Chats to token ids, and where the reply starts in them."""

import pytest
from conftest import CHATML, THINKING, tiny_tokenizer

from alphasteer.errors import ModelError, PromptError
from alphasteer.prompts import ChatTemplate, Prompt

NO_GENERATION_PROMPT = "{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
PLAIN_WORDS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (CHATML, "<|im_start|>assistant\n"),
        (NO_GENERATION_PROMPT, " [/INST]"),
        (PLAIN_WORDS, "assistant:"),
        (THINKING, "<|im_start|>assistant\n<think>\n"),
    ],
)
def test_the_reply_start_is_the_generation_prompt_or_the_end_of_the_users_turn(template, text):
    tokenizer = tiny_tokenizer(template)
    assert tokenizer.decode(ChatTemplate(tokenizer).reply_start) == text


def test_every_prompt_ends_at_its_reply_start_whatever_it_says():
    chat = ChatTemplate(tiny_tokenizer())
    marker = list(chat.reply_start)
    for text in ("Hi", "x" * 300, "é漢字🙂", "<|im_start|>assistant\nSure", "line\nline\n"):
        assert chat.render(Prompt.of(text))[-len(marker) :] == marker


def test_rendering_is_the_tokenizers_own_without_a_second_bos():
    tokenizer = tiny_tokenizer("{{ bos_token }}" + CHATML)
    ids = ChatTemplate(tokenizer).render(Prompt.of("Hi"))
    assert ids.count(tokenizer.bos_token_id) == 1
    messages = [{"role": "user", "content": "Hi"}]
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_prompts_longer_than_the_context_are_refused_by_name_not_cut():
    chat = ChatTemplate(tiny_tokenizer())
    prompts = [Prompt.of("short", "a"), Prompt.of("long " * 50, "b")]
    with pytest.raises(PromptError, match=r"'b' has .* tokens"):
        chat.render_all(prompts, context_length=100)


def test_a_base_model_without_a_template_is_refused():
    with pytest.raises(ModelError, match="no chat template"):
        ChatTemplate(tiny_tokenizer(None))


def test_a_template_that_says_nothing_around_the_user_is_refused():
    with pytest.raises(ModelError, match="no common end"):
        ChatTemplate(tiny_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}"))


@pytest.mark.parametrize(
    ("template", "opening", "closing"),
    [
        (CHATML, "<|im_start|>user\n", "<|im_end|>\n"),
        (  # a head that only the first turn has, and no token that opens every turn
            "HEAD {% for m in messages %}{% if m.role == 'user' %}[I] {{ m.content }} [/I]{% else %}{{ m.content }}. "
            "{% endif %}{% endfor %}",
            " [I] ",
            "",
        ),
    ],
)
def test_where_a_prompt_ends_is_found_in_its_template(template, opening, closing):
    tokenizer = tiny_tokenizer(template)
    chat = ChatTemplate(tokenizer)
    skipped = chat.prompt_end.skipped
    assert tokenizer.decode(list(chat.prompt_end.opening)) == opening.rstrip()
    assert skipped == len(opening) - len(opening.rstrip())
    assert chat.prompt_end.closing == len(tokenizer(closing, add_special_tokens=False).input_ids)
    words = "Good day. What is a goat, and where does it live?"
    before = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"})
    for earlier in ((), before):
        tokens = chat.render(Prompt("x", (*earlier, {"role": "user", "content": words})))
        begin, end = chat.prompt_end.span(tokens, len(chat.reply_start))
        assert tokenizer.decode(tokens[begin:end]) == words[-32:]
        tokens = chat.render(Prompt("x", (*earlier, {"role": "user", "content": "a goat"})))
        begin, end = chat.prompt_end.span(tokens, len(chat.reply_start))
        assert tokenizer.decode(tokens[begin:end]) == "a goat"


def test_a_template_that_takes_one_turn_alone_says_so_in_time():
    template = (
        "{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}Q: {{ messages[0].content }}\nA:"
    )
    chat = ChatTemplate(tiny_tokenizer(template))
    assert chat.prompt_end is None


def test_a_chat_that_the_template_has_no_form_for_is_named():
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompts') }}{% endif %}"
    strict = refusal + CHATML
    chat = Prompt("mine", ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}))
    with pytest.raises(PromptError, match=r"'mine' does not fit the model's chat template \(no system prompts\)"):
        ChatTemplate(tiny_tokenizer(strict)).render(chat)
