"""What a steered model does, on tiny random models of many architectures, against a formula written out here."""

import copy
import threading

import pytest
import torch
from conftest import hand_made, tiny_model

from alphasteer.errors import SteeringError
from alphasteer.models import find_decoder
from alphasteer.prompts import pad
from alphasteer.steering import Gate, Push, Steering

MARKER = (5, 6, 7)


def prompt(*tokens):
    return [*tokens, *MARKER]


def by_the_formula(model, steering, ids):
    """Logits of one row, with the push at every reply start written out by hand in hooks of its own."""
    starts = [t for t in range(len(ids)) if tuple(ids[max(0, t - len(MARKER) + 1) : t + 1]) == MARKER]
    (item,), gates, handles = steering.pushes, {}, []

    def hook(layer):
        def run(module, args, kwargs):
            hidden = (args[0] if args else kwargs["hidden_states"]).clone()
            for t in starts:
                if layer == item.gate.layer:
                    score = hidden[0, t] @ item.gate.w[1]
                    low, high = item.gate.threshold, item.gate.ceiling
                    gates[t] = score if low is None else min(max((score - low) / (high - low), 0), 1)
                if layer in item.directions:
                    hidden[0, t] = hidden[0, t] + item.strength * gates[t] * item.directions[layer]
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

        return run

    for layer, module in enumerate(find_decoder(model).layers):
        handles.append(module.register_forward_pre_hook(hook(layer), with_kwargs=True))
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0]
    for handle in handles:
        handle.remove()
    return logits


def logits(model, ids, **kwargs):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), **kwargs).logits[0]


def continuations(model, sequences, side="left", **kwargs):
    ids, mask = pad(sequences, side, fill=258)
    with torch.inference_mode():
        output = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=6, **kwargs)
    rows = [row[ids.shape[1] :].tolist() for row in output]
    return [row[: row.index(257) + 1] if 257 in row else row for row in rows]  # as far as the end of turn


PROMPTS = [prompt(20, 21), prompt(30, 31, 32, 33, 34, 35, 36), prompt(40), prompt(50, 51, 52, 53)]


def test_every_architecture_follows_the_formula_at_every_reply_start(any_model):
    steering = hand_made(any_model, MARKER)
    ids = [*prompt(20, 21), 33, 34, *prompt(22, 23, 24), 35]
    plain = logits(any_model, ids)
    expected = by_the_formula(any_model, steering, ids)
    with steering.attach(any_model):
        steered = logits(any_model, ids)
    torch.testing.assert_close(steered, expected, atol=2e-4, rtol=1e-3)
    # close, not equal: experts sum tokens in groups, which a push regroups
    torch.testing.assert_close(steered[:4], plain[:4], atol=1e-5, rtol=1e-5)
    assert (steered[4:] - plain[4:]).abs().max() > 0.05


def test_detaching_leaves_no_trace(any_model):
    before = logits(any_model, PROMPTS[1])
    names = {name: set(vars(module)) for name, module in any_model.named_modules()}
    with hand_made(any_model, MARKER).attach(any_model):
        logits(any_model, PROMPTS[1])
    assert torch.equal(logits(any_model, PROMPTS[1]), before)
    assert {name: set(vars(module)) for name, module in any_model.named_modules()} == names
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in any_model.modules())


def test_a_closed_gate_changes_no_bit(any_model):
    steering = hand_made(any_model, MARKER, threshold=1e6, ceiling=2e6)
    before = logits(any_model, PROMPTS[1])
    with steering.attach(any_model) as attached:
        assert torch.equal(logits(any_model, PROMPTS[1]), before)
        assert float(attached.last_gates[0].values.abs().max()) == 0.0


@pytest.mark.parametrize("positions", ["reply_start", "prompt"])
def test_a_batch_gives_what_each_prompt_gives_alone(any_model, positions):
    steering = hand_made(any_model, MARKER, positions=positions)
    with steering.attach(any_model):
        alone = [continuations(any_model, [sequence])[0] for sequence in PROMPTS]
        assert continuations(any_model, PROMPTS) == alone
    assert continuations(any_model, PROMPTS) != alone


def test_right_padding_gives_the_same_logits(llama):
    ids, mask = pad(PROMPTS, "right", fill=258)
    with hand_made(llama, MARKER).attach(llama), torch.inference_mode():
        batch = llama(input_ids=ids, attention_mask=mask).logits
        for row, sequence in enumerate(PROMPTS):
            torch.testing.assert_close(batch[row, : len(sequence)], logits(llama, sequence), atol=1e-4, rtol=1e-4)


def test_the_papers_form_pushes_all_prompt_positions_by_the_gate_at_the_last(llama):
    steering = hand_made(llama, MARKER, positions="prompt")
    ids, streams = PROMPTS[1], {}
    layers = find_decoder(llama).layers

    def keep(layer):
        def hook(module, args, kwargs):
            streams.setdefault(layer, args[0] if args else kwargs["hidden_states"])

        return layers[layer].register_forward_pre_hook(hook, with_kwargs=True)

    before = [keep(1)]
    with steering.attach(llama):
        after = [
            layers[1].self_attn.register_forward_pre_hook(
                lambda m, a, k: streams.update(a=k["hidden_states"]), with_kwargs=True
            )
        ]
        logits(llama, ids)
    for handle in before + after:
        handle.remove()
    first = steering.pushes[0]
    expected = streams[1] + (streams[1][0, -1] @ first.gate.w[1]) * first.directions[1]  # h + (w.h_last) r everywhere
    torch.testing.assert_close(streams["a"], layers[1].input_layernorm(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cut", range(1, 11))
def test_a_prompt_fed_in_two_pieces_is_steered_as_a_whole(llama, cut):
    ids = PROMPTS[1]
    with hand_made(llama, MARKER).attach(llama), torch.inference_mode():
        whole = logits(llama, ids)
        first = llama(input_ids=torch.tensor([ids[:cut]]), use_cache=True)
        if cut < len(ids):
            second = llama(input_ids=torch.tensor([ids[cut:]]), past_key_values=first.past_key_values)
            torch.testing.assert_close(second.logits[0], whole[cut:], atol=1e-4, rtol=1e-4)


def test_several_turns_on_one_cache_are_each_steered(llama):
    turns = [PROMPTS[0], [60, 61, *PROMPTS[1]], [62, *PROMPTS[2]]]
    with hand_made(llama, MARKER).attach(llama), torch.inference_mode():
        whole = logits(llama, [token for turn in turns for token in turn])
        cache, pieces = None, []
        for turn in turns:
            output = llama(input_ids=torch.tensor([turn]), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            pieces.append(output.logits[0])
    torch.testing.assert_close(torch.cat(pieces), whole, atol=1e-4, rtol=1e-4)


def test_a_reply_anew_from_a_cropped_or_copied_cache_is_steered(llama):
    """Crop a used cache to all but the prompt's last token, as regenerating does: the marker is cut in two."""
    ids = PROMPTS[1]
    with hand_made(llama, MARKER).attach(llama), torch.inference_mode():
        whole = logits(llama, ids)
        cache = llama(input_ids=torch.tensor([[*ids, 70, 71, 72]]), use_cache=True).past_key_values
        cache.crop(-4)
        copied = copy.deepcopy(cache)
        for each in (cache, copied):
            anew = llama(input_ids=torch.tensor([ids[-1:]]), past_key_values=each).logits[0, -1]
            torch.testing.assert_close(anew, whole[-1], atol=1e-4, rtol=1e-4)


def test_static_cache_and_beams_and_sampling(llama):
    with hand_made(llama, MARKER).attach(llama):
        dynamic = continuations(llama, PROMPTS)
        assert continuations(llama, PROMPTS, cache_implementation="static") == dynamic
        beams = continuations(llama, PROMPTS, num_beams=3)
        assert beams == [continuations(llama, [sequence], num_beams=3)[0] for sequence in PROMPTS]
        ids = torch.tensor([PROMPTS[1]])
        torch.manual_seed(3)
        steered = llama.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=6)
    torch.manual_seed(3)
    plain = llama.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=6)
    assert steered.tolist() != plain.tolist()


def test_beams_that_write_the_marker_themselves_carry_their_own_tokens(llama):
    """Rows of a cache change places in beam search; what is remembered of their tokens must go with them."""
    ids = torch.tensor([[20, 5, 6], [21, 22, 23]])
    with hand_made(llama, MARKER).attach(llama), torch.inference_mode():
        cache = llama(input_ids=ids, use_cache=True).past_key_values
        cache.reorder_cache(torch.tensor([1, 0]))
        output = llama(input_ids=torch.tensor([[7], [7]]), past_key_values=cache).logits
        torch.testing.assert_close(output[1, 0], logits(llama, [20, 5, 6, 7])[-1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(output[0, 0], logits(llama, [21, 22, 23, 7])[-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("how", ["wrapper", "module", "forward"])
def test_a_model_compiled_and_run_before_is_steered_and_released(how):
    model = tiny_model("Llama")
    steering = hand_made(model, MARKER)
    before = logits(model, PROMPTS[1])
    with steering.attach(model):
        expected = logits(model, PROMPTS[1])
    compiled = model
    if how == "wrapper":
        compiled = torch.compile(model, backend="eager")
    elif how == "module":
        model.compile(backend="eager")
    else:
        model.forward = torch.compile(model.forward, backend="eager")
    torch.testing.assert_close(logits(compiled, PROMPTS[1]), before)
    with steering.attach(compiled):
        torch.testing.assert_close(logits(compiled, PROMPTS[1]), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(compiled, PROMPTS[1]), before)


def test_two_steerings_two_models_many_threads_share_nothing():
    models = [tiny_model("Llama"), tiny_model("Qwen2")]
    steerings = [hand_made(model, MARKER, seed=seed) for seed, model in enumerate(models)]
    expected = []
    for model, steering in zip(models, steerings, strict=True):
        with steering.attach(model):
            expected.append([continuations(model, [p])[0] for p in PROMPTS])
    attached = [steering.attach(model) for model, steering in zip(models, steerings, strict=True)]
    results, errors = {}, []

    def work(m, p):
        try:
            results[m, p] = continuations(models[m], [PROMPTS[p]])[0]
        except Exception as error:  # noqa: BLE001 - a thread's error must reach the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(m, p)) for m in range(2) for p in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in attached:
        each.remove()
    assert not errors
    assert results == {(m, p): expected[m][p] for m in range(2) for p in range(len(PROMPTS))}


def test_two_steerings_on_one_model_add_up(llama):
    one, two = hand_made(llama, MARKER, seed=1), hand_made(llama, (7,), seed=2)
    with one.attach(llama), two.attach(llama):
        both = continuations(llama, PROMPTS)
    with one.attach(llama):
        alone = continuations(llama, PROMPTS)
    assert both != alone


def test_strength_zero_is_off_and_can_be_changed_while_attached(llama):
    before = logits(llama, PROMPTS[1])
    with hand_made(llama, MARKER).attach(llama, strength=0.0) as attached:
        assert torch.equal(logits(llama, PROMPTS[1]), before)
        attached.strength = 1.0
        assert not torch.equal(logits(llama, PROMPTS[1]), before)


def test_last_gates_are_this_threads_readings_by_row(llama):
    with hand_made(llama, MARKER, threshold=-50.0, ceiling=50.0).attach(llama) as attached:
        continuations(llama, PROMPTS)
        (reading,) = attached.last_gates
    assert reading.layer == 1
    assert reading.rows.tolist() == [0, 1, 2, 3]
    assert ((reading.scores + 50) / 100).clamp(0, 1).tolist() == pytest.approx(reading.values.tolist())


def test_a_forward_without_token_ids_is_refused_not_left_unsteered(llama):
    embeddings = torch.randn(1, 5, 32)
    with hand_made(llama, MARKER).attach(llama), pytest.raises(SteeringError, match="input_ids"):
        llama(inputs_embeds=embeddings)


def test_a_steering_for_another_model_is_refused(llama):
    narrow = Steering((Push(Gate({1: torch.ones(16)}), {1: torch.ones(16)}),), MARKER)
    with pytest.raises(SteeringError, match="vectors of length 16"):
        narrow.attach(llama)
    deep = Steering((Push(Gate({1: torch.ones(32)}), {9: torch.ones(32)}),), MARKER)
    with pytest.raises(SteeringError, match="up to layer 9"):
        deep.attach(llama)


def test_hooks_go_even_if_the_forward_fails(llama):
    with pytest.raises(RuntimeError), hand_made(llama, MARKER).attach(llama):
        raise RuntimeError
    assert not any(module._forward_pre_hooks for module in llama.modules())


def test_output_hidden_states_of_the_layers_below_are_not_overwritten(llama):
    with torch.inference_mode():
        plain = llama(input_ids=torch.tensor([PROMPTS[1]]), output_hidden_states=True).hidden_states
        with hand_made(llama, MARKER).attach(llama):
            steered = llama(input_ids=torch.tensor([PROMPTS[1]]), output_hidden_states=True).hidden_states
    assert torch.equal(plain[1], steered[1])
    assert not torch.equal(plain[2], steered[2])
