"""Gates that read the mean over the prompt's end, against a formula written out here."""

import copy

import pytest
import torch
from conftest import tiny_model
from hypothesis import given
from hypothesis import strategies as st

from alphasteer.activations import read_residual_stream
from alphasteer.errors import SteeringError
from alphasteer.models import find_decoder
from alphasteer.prompts import ChatTemplate, Prompt, PromptEnd, pad
from alphasteer.replies import PrefilledPrompts
from alphasteer.reporting import LogReporter
from alphasteer.steering import Gate, Push, Steering

OPENING, CLOSING, MARKER = (3, 4), (8, 9), (5, 6, 7)
END = PromptEnd(OPENING, 0, len(CLOSING), most=4)
ASKED = [[20, 21], [30, 31, 32, 33, 34, 35, 36], [40], [50, 51, 52, 53], []]
PROMPTS = [[1, 2, *OPENING, *words, *CLOSING, *MARKER] for words in ASKED]


def by_hand(model, *, strength=1.0, seed=1):
    """Two read-outs at layers 0 and 1, of the reply start and the prompt's end, that drive layers 1 to 3."""
    generator = torch.Generator().manual_seed(seed)
    width = find_decoder(model).hidden_size

    def vectors(*shape):
        return torch.randn(*shape, generator=generator)

    gate = Gate({n: vectors(2, 2 * width) / 10 for n in (0, 1)}, -50.0, 50.0)
    return Steering((Push(gate, {n: vectors(width) * 3 for n in (1, 2, 3)}, strength),), MARKER, prompt_end=END)


def score_by_the_formula(model, steering, ids, words):
    """max over k of the sum over layers of w_k . [h at the last token; mean of h over the last 4 of the words]."""
    with torch.inference_mode():
        streams = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    end = len(ids) - len(MARKER) - len(CLOSING)
    total = torch.zeros(2)
    for layer, w in steering.pushes[0].gate.w.items():
        h = streams[layer][0]
        mean = h[end - min(4, len(words)) : end].mean(0) if words else torch.zeros_like(h[0])
        total += w @ torch.cat([h[-1], mean])
    return total.max()


def read_by_hooks(model, steering, **inputs):
    with steering.attach(model) as attached, torch.inference_mode():
        output = model(**inputs)
    return attached.last_gates[0].scores, output


def test_every_architecture_follows_the_formula(any_model):
    steering = by_hand(any_model)
    for ids, words in zip(PROMPTS, ASKED, strict=True):
        expected = score_by_the_formula(any_model, steering, ids, words)
        (score,), _ = read_by_hooks(any_model, steering, input_ids=torch.tensor([ids]))
        torch.testing.assert_close(score, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_count(llama, side):
    no_turn = [1, 2, 20, 21, *CLOSING, *MARKER]
    ids, mask = pad([*PROMPTS, no_turn], side, fill=258)
    scores, _ = read_by_hooks(llama, by_hand(llama), input_ids=ids, attention_mask=mask)
    alone = [read_by_hooks(llama, by_hand(llama), input_ids=torch.tensor([each]))[0] for each in (*PROMPTS, no_turn)]
    torch.testing.assert_close(scores, torch.cat(alone), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cut", range(1, len(PROMPTS[1])))
def test_a_prompt_in_two_pieces_is_read_as_a_whole(llama, cut):
    ids, steering = torch.tensor([PROMPTS[1]]), by_hand(llama)
    whole, expected = read_by_hooks(llama, steering, input_ids=ids)
    with steering.attach(llama) as attached, torch.inference_mode():
        cache = llama(input_ids=ids[:, :cut], use_cache=True).past_key_values
        found = llama(input_ids=ids[:, cut:], past_key_values=cache).logits
    torch.testing.assert_close(attached.last_gates[0].scores, whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[0], expected.logits[0, cut:], atol=1e-4, rtol=1e-4)


def test_of_several_turns_the_last_ones_words_count(llama):
    steering = by_hand(llama)
    turns = [PROMPTS[1], [60, 61, *CLOSING, *OPENING, 70, *CLOSING, *MARKER]]
    with steering.attach(llama) as attached, torch.inference_mode():
        llama(input_ids=torch.tensor([[token for turn in turns for token in turn]]))
        whole = attached.last_gates[0].scores
        cache, pieces = None, []
        for turn in turns:
            cache = llama(input_ids=torch.tensor([turn]), past_key_values=cache, use_cache=True).past_key_values
            pieces.append(attached.last_gates[0].scores)
    assert len(whole) == 2
    torch.testing.assert_close(torch.cat(pieces), whole, atol=1e-4, rtol=1e-4)


def test_a_reply_anew_from_a_cropped_or_copied_cache_is_read(llama):
    steering, ids = by_hand(llama), PROMPTS[1]
    whole, _ = read_by_hooks(llama, steering, input_ids=torch.tensor([ids]))
    with steering.attach(llama) as attached, torch.inference_mode():
        cache = llama(input_ids=torch.tensor([[*ids, 70, 71, 72]]), use_cache=True).past_key_values
        cache.crop(-4)
        for each in (copy.deepcopy(cache), cache):
            llama(input_ids=torch.tensor([ids[-1:]]), past_key_values=each)
            torch.testing.assert_close(attached.last_gates[0].scores, whole, atol=1e-4, rtol=1e-4)


def test_who_read_the_prompt_reads_for_all_that_have_the_same_gate(llama):
    """Two steerings that differ in their pushes alone, on copies of one cache that was run at strength 0."""
    ids = torch.tensor([PROMPTS[1]])
    with by_hand(llama).attach(llama, strength=0.0), torch.inference_mode():
        cache = llama(input_ids=ids[:, : -len(MARKER)], use_cache=True).past_key_values
    for strength in (0.5, 2.0):
        steering = by_hand(llama, strength=strength)
        whole, expected = read_by_hooks(llama, steering, input_ids=ids)
        rest = {"input_ids": ids[:, -len(MARKER) :], "past_key_values": copy.deepcopy(cache)}
        scores, found = read_by_hooks(llama, steering, **rest)
        torch.testing.assert_close(scores, whole, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.logits[0, -1], expected.logits[0, -1], atol=1e-4, rtol=1e-4)


def test_prompts_that_were_run_for_many_tries_are_read_as_if_each_were_alone(llama, tokenizer):
    """Padding stands there between what the prompts share and what is their own."""
    chat = ChatTemplate(tokenizer)
    width = llama.config.hidden_size
    texts = ["Hi", "Tell me a story about a goat", "2+2", "x" * 60, "Why?"]
    sequences = chat.render_all([Prompt.of(text) for text in texts])
    gate = Gate({n: torch.randn(2, 2 * width) / 10 for n in (0, 1)}, -50.0, 50.0)
    push = Push(gate, {1: torch.randn(width)})
    steering = Steering((push,), chat.reply_start, prompt_end=chat.prompt_end)
    prefilled = PrefilledPrompts(llama, tokenizer, sequences, chat.reply_start, LogReporter(), readers=[steering])
    alone = torch.cat([read_by_hooks(llama, steering, input_ids=torch.tensor([ids]))[0] for ids in sequences])
    with steering.attach(llama) as attached:
        for number, rows in enumerate(prefilled.batches):
            prefilled.first_logits(number)
            torch.testing.assert_close(attached.last_gates[0].scores, alone[rows], atol=1e-4, rtol=1e-4)


def test_a_row_that_is_shared_out_takes_its_reads_along(llama):
    ids = torch.tensor([PROMPTS[1]])
    whole, _ = read_by_hooks(llama, by_hand(llama), input_ids=ids)
    with by_hand(llama).attach(llama) as attached, torch.inference_mode():
        cache = llama(input_ids=ids[:, :-3], use_cache=True).past_key_values
        cache.batch_repeat_interleave(2)
        llama(input_ids=ids[:, -3:].repeat(2, 1), past_key_values=cache)
    torch.testing.assert_close(attached.last_gates[0].scores, whole.repeat(2), atol=1e-4, rtol=1e-4)


def test_a_prompt_that_ran_before_is_refused_not_left_unread(llama):
    ids = torch.tensor([PROMPTS[1]])
    with torch.inference_mode():
        cache = llama(input_ids=ids[:, :-3], use_cache=True).past_key_values
        with by_hand(llama).attach(llama), pytest.raises(SteeringError, match="ran before the steering was attached"):
            llama(input_ids=ids[:, -3:], past_key_values=cache)


def test_beams_and_static_caches_are_read_alike(llama):
    def continued(**kwargs):
        output = llama.generate(
            torch.tensor([PROMPTS[1]]), do_sample=False, max_new_tokens=6, pad_token_id=258, **kwargs
        )
        return output[0].tolist()

    with by_hand(llama).attach(llama):
        assert continued(cache_implementation="static") == continued()
        assert continued(num_beams=2)


def test_it_is_kept_with_the_artefact(tmp_path, llama):
    steering = by_hand(llama)
    steering.save_pretrained(tmp_path)
    read = Steering.from_pretrained(tmp_path)
    assert (read.prompt_end, read.digest) == (END, steering.digest)
    assert '"reply start, prompt end"' in (tmp_path / "steering.json").read_text()


def test_another_end_is_another_steering(llama):
    steering = by_hand(llama)
    other = Steering(steering.pushes, MARKER, prompt_end=PromptEnd(OPENING, 0, 2, most=5))
    assert other.digest != steering.digest


@pytest.mark.parametrize(("positions", "end"), [("reply_start", None), ("prompt", END)])
def test_what_cannot_be_read_cannot_be_built(llama, positions, end):
    with pytest.raises(SteeringError, match="acts at reply starts, and needs to know that end"):
        Steering(by_hand(llama).pushes, MARKER, positions, end)


def test_what_is_read_of_many_prompts_is_what_hooks_read(any_model):
    steering = by_hand(any_model)
    spans = [END.span(ids, len(MARKER)) for ids in PROMPTS]
    streams = read_residual_stream(any_model, find_decoder(any_model), PROMPTS, (0, 1), LogReporter(), spans=spans)
    scores = sum(streams[n] @ w.T for n, w in steering.pushes[0].gate.w.items()).amax(-1)
    for ids, score in zip(PROMPTS, scores, strict=True):
        (expected,), _ = read_by_hooks(any_model, steering, input_ids=torch.tensor([ids]))
        torch.testing.assert_close(score, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("budget", [40, 100_000])
def test_a_span_may_begin_in_what_prompts_share(budget):
    model = tiny_model("Llama")
    shared = [*range(60, 100), *OPENING, *range(100, 130)]
    sequences = [[*shared, 140 + n, 141 + n, *CLOSING, *MARKER] for n in range(20)]
    for most in (1, 10, 50):
        end = PromptEnd(OPENING, 0, len(CLOSING), most)
        spans = [end.span(ids, len(MARKER)) for ids in sequences]
        found = read_residual_stream(
            model, find_decoder(model), sequences, [2], LogReporter(), spans=spans, token_budget=budget
        )[2]
        with torch.inference_mode():
            streams = model(torch.tensor(sequences), output_hidden_states=True).hidden_states[2]
        size = min(most, 32)
        expected = torch.cat([streams[:, -1], streams[:, -5 - size : -5].mean(1)], dim=1)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@given(st.lists(st.integers(10, 20)), st.lists(st.integers(10, 20), max_size=12), st.integers(1, 8))
def test_the_span_is_the_last_of_the_users_words(before, words, most):
    chat = [1, *before, *OPENING, *words, *CLOSING, *MARKER]
    begin, end = PromptEnd(OPENING, 0, len(CLOSING), most).span(chat, len(MARKER))
    assert chat[begin:end] == (words[-most:] if words else [])


def test_white_space_that_merges_with_the_first_words_is_skipped_all_the_same():
    end = PromptEnd(OPENING, 1, len(CLOSING), 50)
    for space in (13, 14):  # a line's end, and two merged into one
        chat = [1, 10, *OPENING, space, 30, 31, *CLOSING, *MARKER]
        assert end.span(chat, len(MARKER)) == (5, 7)


def test_equal_read_outs_of_other_layers_are_another_gate(llama):
    """Two pushes of one steering: neither takes what the other has read for its own."""
    width, ids = llama.config.hidden_size, torch.tensor([PROMPTS[1]])
    w = torch.randn(1, 2 * width) / 10
    pushes = [Push(Gate({layer: w}, -50.0, 50.0), {3: torch.zeros(width)}) for layer in (0, 2)]
    both = Steering(tuple(pushes), MARKER, prompt_end=END)
    with both.attach(llama) as attached, torch.inference_mode():
        llama(input_ids=ids)
        whole = [reading.scores for reading in attached.last_gates]
        cache = llama(input_ids=ids[:, :6], use_cache=True).past_key_values
        llama(input_ids=ids[:, 6:], past_key_values=cache)
    for reading, expected in zip(attached.last_gates, whole, strict=True):
        torch.testing.assert_close(reading.scores, expected, atol=1e-4, rtol=1e-4)


@given(st.integers(0, 3), st.lists(st.integers(10, 20), min_size=1, max_size=12))
def test_without_a_users_turn_all_counts_but_the_first(repeated, words):
    chat = [*[1] * (1 + repeated), *words, *CLOSING, *MARKER]
    begin, end = PromptEnd(OPENING, 0, len(CLOSING), 50).span(chat, len(MARKER))
    assert chat[begin:end] == words
