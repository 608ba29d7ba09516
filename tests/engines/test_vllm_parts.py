"""What the vLLM plug-in is made of, without vLLM; the real engine is tested by ``make test-vllm``."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alphasteer.engines.protocol import Limits
from alphasteer.engines.vllm.batches import StepFiller
from alphasteer.engines.vllm.gate_reports import add_reports, hand_over, keep_scores, with_scores
from alphasteer.engines.vllm.layers import LayerSteering, StepBuffers, find_layers, steer_layers
from alphasteer.engines.vllm.plugin import wrap
from alphasteer.engines.vllm.prompt_ends import PromptEndBuffers, period, window
from alphasteer.engines.vllm.reply_starts import reply_starts
from alphasteer.engines.vllm.requests import bound, bound_beams, most_cached, problem_of, salted, strength_of
from alphasteer.engines.vllm.second_runner import SecondStepFiller
from alphasteer.engines.vllm.seeds import undrawn
from alphasteer.engines.vllm.serving import server_command, server_environment
from alphasteer.engines.vllm.settings import (
    GATES,
    KEY,
    STRENGTH,
    ServingConfig,
    additional_config,
    is_steered,
    read_config,
)
from alphasteer.errors import SteeringError
from alphasteer.prompts import PromptEnd
from alphasteer.steering import Gate, Push, Steering

MARKER = (7, 8)
CLOSED = ServingConfig(folder="x", digest="d")
OPEN = ServingConfig(folder="x", digest="d", allow_strength=True, highest_strength=2.0)


def asking(strength):
    return SimpleNamespace(extra_args=None if strength is None else {STRENGTH: strength})


@given(
    st.lists(st.tuples(st.lists(st.sampled_from([6, 7, 8]), min_size=1, max_size=9), st.integers(0, 8)), min_size=1),
    st.lists(st.sampled_from([7, 8]), min_size=1, max_size=3),
)
def test_reply_starts_are_found_wherever_a_step_cuts_the_tokens(requests, marker):
    tokens = np.full((len(requests), 12), -1)
    computed, scheduled, expected = [], [], []
    for row, (ids, cut) in enumerate(requests):
        tokens[row, : len(ids)] = ids
        start = min(cut, len(ids) - 1)
        computed.append(start)
        scheduled.append(len(ids) - start)
        expected += [ids[max(0, end - len(marker) + 1) : end + 1] == marker for end in range(start, len(ids))]
    assert reply_starts(tokens, np.array(computed), np.array(scheduled), marker).tolist() == expected


def two_pushes():
    generator = torch.Generator().manual_seed(0)

    def vector():
        return torch.randn(6, generator=generator)

    def two():
        return torch.stack([vector(), vector()])

    first = Push(Gate({0: two(), 2: two()}, -0.5, 1.5), {2: vector(), 3: vector()}, 0.7)
    second = Push(Gate({1: vector()}, 0.0, 0.5, normalised=True), {1: vector(), 3: vector()})
    return Steering((first, second), MARKER)


@pytest.mark.parametrize("eager", [False, True])
def test_layers_read_and_push_as_the_formula_says(eager):
    """Written out for two gates, one of two read-outs over two layers; the stream is hidden states plus residual."""
    steering, tokens = two_pushes(), 5
    step = StepBuffers([item.gate for item in two_pushes().pushes], 8, torch.device("cpu"))
    strength = torch.tensor([0.0, 1.0, 0.0, 0.5, 2.0])
    step.strength[:tokens], step.any = strength, True
    layers = {n: LayerSteering(steering, n, step, torch.device("cpu"), eager) for n in steering.layers}
    torch.manual_seed(1)
    inputs = {n: (torch.randn(tokens, 6), torch.randn(tokens, 6) if n else None) for n in layers}
    outputs = {n: layers[n](*inputs[n]) for n in sorted(layers)}

    stream = {n: h if residual is None else h + residual for n, (h, residual) in inputs.items()}
    first, second = steering.pushes
    one, other = (stream[0] @ first.gate.w[0][k] + stream[2] @ first.gate.w[2][k] for k in range(2))
    assert (one > other).any()
    assert (one < other).any()
    score = torch.maximum(one, other)
    torch.testing.assert_close(step.scores[0, :tokens], score)
    g = ((score + 0.5) / 2).clamp(0, 1) * strength
    cosine = (stream[1] @ second.gate.w[1]) / stream[1].square().mean(-1).sqrt()
    k = (cosine / 0.5).clamp(0, 1) * strength
    assert ((g > 0) & (strength > 0)).any()
    assert ((k > 0) & (strength > 0)).any()
    expected = {
        0: inputs[0][0],
        1: inputs[1][0] + k[:, None] * second.directions[1],
        2: inputs[2][0] + 0.7 * g[:, None] * first.directions[2],
        3: inputs[3][0] + 0.7 * g[:, None] * first.directions[3] + k[:, None] * second.directions[3],
    }
    for number, hidden in expected.items():
        torch.testing.assert_close(outputs[number], hidden)
    unsteered = strength == 0
    assert all(torch.equal(outputs[n][unsteered], inputs[n][0][unsteered]) for n in layers), "to the last bit"


def test_only_eager_layers_ask_whether_a_step_has_reply_starts():
    """A captured graph runs for every later step; what was false at capture must not be baked in."""
    hidden = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    outputs = {}
    for eager in (False, True):
        step = StepBuffers([item.gate for item in two_pushes().pushes], 8, torch.device("cpu"))
        step.strength.fill_(1.0)  # while ``any`` says that there is none
        outputs[eager] = LayerSteering(two_pushes(), 1, step, torch.device("cpu"), eager)(hidden, None)
    assert torch.equal(outputs[True], hidden)
    assert not torch.equal(outputs[False], hidden)


class Layer(nn.Module):
    def forward(self, positions, hidden_states, residual):
        return hidden_states, residual


class Strange(nn.Module):
    def forward(self, positions, hidden_states, delta):
        return hidden_states


class Model(nn.Module):
    def __init__(self, kind, count=4):
        super().__init__()
        self.embed = nn.Embedding(4, 6)
        self.layers = nn.ModuleList(kind() for _ in range(count))


def test_hooks_pass_the_pushed_stream_on_and_leave_the_rest_alone():
    model, steering = Model(Layer), two_pushes()
    step = steer_layers(model, steering, 4, 8, 4, eager=True)
    hidden, residual, positions = torch.randn(3, 6), torch.randn(3, 6), torch.arange(3)
    assert torch.equal(model.layers[1](positions, hidden, residual)[0], hidden), "no reply start: nothing is pushed"
    step.strength.fill_(1.0)
    step.any = True
    plain = hidden.clone()
    for call in (
        lambda: model.layers[1](positions, hidden, residual),
        lambda: model.layers[1](positions, hidden_states=hidden, residual=residual),
    ):
        pushed, same = call()
        assert same is residual
        assert torch.equal(hidden, plain), "not in place"
        k = float(step.values[1, 0])
        torch.testing.assert_close(pushed[0], hidden[0] + k * steering.pushes[1].directions[1])


def test_layers_that_are_not_known_are_refused():
    with pytest.raises(SteeringError, match="takes positions, hidden_states, delta"):
        steer_layers(Model(Strange), two_pushes(), 4, 8, 4, eager=True)
    with pytest.raises(SteeringError, match="0 lists of 5 layers"):
        find_layers(Model(Layer), 5)
    with pytest.raises(SteeringError, match="reaches layer 3, and the model has 3"):
        steer_layers(Model(Layer, 3), two_pushes(), 3, 8, 4, eager=True)
    paper = Steering((Push(Gate({1: torch.ones(6)}), {1: torch.ones(6)}),), MARKER, "prompt")
    with pytest.raises(SteeringError, match="prompts in pieces"):
        steer_layers(Model(Layer), paper, 4, 8, 4, eager=True)


def first_batch(names, tokens, computed, prompts):
    """What vLLM's first runner knows of a step."""
    return SimpleNamespace(
        num_reqs=len(names),
        req_ids=names,
        token_ids_cpu=tokens,
        num_computed_tokens_cpu=computed,
        num_prompt_tokens=prompts,
    )


def second_batch(names, slots, computed, scheduled):
    """What its second one knows."""
    ends = np.concatenate([[0], np.cumsum(scheduled)]).astype(np.int32)
    places = np.concatenate([np.arange(c, c + s) for c, s in zip(computed, scheduled, strict=True)])
    return SimpleNamespace(
        num_reqs=len(names),
        num_tokens=int(ends[-1]),
        req_ids=names,
        query_start_loc=torch.from_numpy(ends),
        query_start_loc_np=ends,
        idx_mapping=torch.from_numpy(slots),
        idx_mapping_np=slots,
        positions=torch.from_numpy(places),
        num_computed_tokens_np=computed,
        num_scheduled_tokens=scheduled,
    )


def test_a_step_holds_each_request_s_strength_at_its_reply_starts_and_nothing_else():
    step = StepBuffers([two_pushes().pushes[0].gate], 16, torch.device("cpu"))
    filler = StepFiller(step, MARKER, OPEN)
    tokens = np.array([[1, 7, 8, 5, 0], [7, 8, 7, 8, 0]])
    batch = first_batch(["a", "b"], tokens, np.array([0, 1]), np.array([4, 3]))
    requests = {name: SimpleNamespace(sampling_params=asking(s)) for name, s in (("a", 0.5), ("b", 9.0))}
    runner = SimpleNamespace(input_batch=batch, requests=requests)
    filler.fill(runner, np.array([4, 3]))
    assert step.strength.tolist() == [0, 0, 0.5, 0, 2.0, 0, 2.0] + [0] * 9
    step.scores[0, 2], step.scores[0, 4] = 1.5, 2.5
    assert filler.last_scores() == [2.5]
    names, scores = filler.take_scores()
    assert (names, scores.tolist()) == (["a", "b"], [[1.5], [2.5]]), "at the prompt's last start, not the reply's own"
    assert filler.take_scores() is None, "they are told once"
    batch.num_computed_tokens_cpu = np.array([3, 2])
    filler.fill(runner, np.array([1, 1]))
    assert not step.any
    assert not step.strength.any(), "what the last step left behind is gone"


def test_a_reply_s_gates_reach_the_client_who_asks_and_prometheus_in_any_case():
    """Read in one step, told with the first token that comes of it, kept in the front end to the reply's last one."""
    prometheus = pytest.importorskip("prometheus_client")

    def counted(opened):
        return prometheus.REGISTRY.get_sample_value("alphasteer_replies_total", {"opened": opened}) or 0.0

    def output(name, other=None):
        return SimpleNamespace(request_id=name, kv_transfer_params=other)

    steering, asked = two_pushes(), {GATES: 1, STRENGTH: 0.5}
    requests = {
        name: SimpleNamespace(sampling_params=SimpleNamespace(extra_args=wish))
        for name, wish in (("a", asked), ("b", None), ("c", asked))
    }
    states = {name: SimpleNamespace() for name in "abc"}
    taken = ["a", "b", "gone"], torch.tensor([[0.5, -1.0], [-9.0, -9.0], [0.0, 0.0]])
    inner = SimpleNamespace()
    with_scores(SimpleNamespace(model_runner_output=inner), taken)  # as an asynchronous runner gives it
    keep_scores(requests, inner)
    keep_scores(requests, with_scores(SimpleNamespace(), None))
    before = counted("true"), counted("false")
    told = {
        "strength": 0.5,
        "gates": [{"layer": 2, "score": 0.5, "opened": 0.5}, {"layer": 1, "score": -1.0, "opened": 0}],
    }
    for _ in range(2):  # the first tokens, and others
        outputs = [output("a", {"x": 1}), output("b"), output("c"), output("gone")]
        add_reports(requests, [SimpleNamespace(outputs=outputs)], steering, OPEN)
        hand_over(states, outputs)
        assert outputs[0].kv_transfer_params == {"x": 1, KEY: told}
        assert [each.kv_transfer_params for each in outputs[1:]] == [None] * 3
    assert (counted("true") - before[0], counted("false") - before[1]) == (1, 1), "once a reply"


@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from([6, 7, 8]), min_size=1, max_size=9), st.integers(0, 8)),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 9),
)
def test_the_second_runner_s_steps_hold_what_the_first_one_s_hold(requests, prompt):
    """Its requests stand in slots of another order, and its tokens on the device."""
    count, gate = len(requests), two_pushes().pushes[0].gate
    tokens = np.full((count, 12), -1)
    for row, (ids, _) in enumerate(requests):
        tokens[row, : len(ids)] = ids
    names = [f"r{row}" for row in range(count)]
    computed = np.array([min(cut, len(ids) - 1) for ids, cut in requests])
    scheduled = np.array([len(ids) for ids, _ in requests]) - computed
    lengths = np.array([min(prompt, len(ids)) for ids, _ in requests])
    strengths = [0.25 * (row + 1) for row in range(count)]
    first = StepFiller(StepBuffers([gate], 128, torch.device("cpu")), MARKER, OPEN)
    batch = first_batch(names, tokens, computed, lengths)
    params = {name: asking(strength) for name, strength in zip(names, strengths, strict=True)}
    first.fill(
        SimpleNamespace(
            input_batch=batch, requests={name: SimpleNamespace(sampling_params=params[name]) for name in names}
        ),
        scheduled,
    )

    second = SecondStepFiller(StepBuffers([gate], 128, torch.device("cpu")), MARKER, OPEN, slots=count + 2)
    slots = np.array([(row + 1) % count for row in range(count)])
    held = torch.full((count + 2, 12), 9)
    held[torch.from_numpy(slots)] = torch.from_numpy(tokens)
    for row, (ids, _) in enumerate(requests):
        new = SimpleNamespace(sampling_params=params[names[row]], prefill_token_ids=ids, prompt_len=int(lengths[row]))
        second.add(int(slots[row]), new)
    second.step.strength.fill_(5.0)  # what an earlier, longer step left behind
    second.fill(second_batch(names, slots, computed, scheduled), held)
    assert torch.equal(second.step.strength, first.step.strength)
    for filler in (first, second):
        filler.step.scores[0] = torch.arange(128.0)
    one, other = (filler.take_scores() or ([], torch.empty(0)) for filler in (first, second))
    assert dict(zip(one[0], one[1].tolist(), strict=True)) == dict(zip(other[0], other[1].tolist(), strict=True))


@pytest.mark.parametrize(
    ("config", "asked", "strength"),
    [(CLOSED, None, 1.0), (CLOSED, 0.0, 1.0), (OPEN, None, 1.0), (OPEN, 0.25, 0.25), (OPEN, 7, 2.0), (OPEN, -1, 0.0)],
)
def test_strengths_are_clamped_and_only_the_operator_allows_them(config, asked, strength):
    assert strength_of(asking(asked), config) == strength
    assert strength_of(None, config) == 1.0, "requests that write nothing have no parameters"


def test_what_cannot_be_steered_as_asked_is_said_in_a_sentence():
    prompt = [1, 2, *MARKER]
    assert problem_of(asking(None), prompt, MARKER, CLOSED) is None
    assert problem_of(asking(0.5), prompt, MARKER, OPEN) is None
    assert "did not allow" in problem_of(asking(0.5), prompt, MARKER, CLOSED)
    for wrong in ("1", True, math.nan, math.inf, [1.0]):
        assert "must be a number" in problem_of(asking(wrong), prompt, MARKER, OPEN)
    for wrong in ("yes", 2, [1]):
        assert "must be 1 or 0" in problem_of(SimpleNamespace(extra_args={GATES: wrong}), prompt, MARKER, CLOSED)
    assert "no reply start" in problem_of(asking(None), [1, 2, 8, 7], MARKER, CLOSED)
    assert "embeddings" in problem_of(asking(None), None, MARKER, CLOSED)


def test_cached_blocks_belong_to_one_artefact_and_one_strength():
    other = CLOSED.model_copy(update={"digest": "e"})
    salts = [salted(None, asking(s), OPEN) for s in (0.5, 1.0)] + [salted(None, None, other), salted("u", None, OPEN)]
    assert len(set(salts)) == 4
    assert salted(None, asking(None), OPEN) == salted(None, asking(1.0), CLOSED)


def test_settings_travel_through_the_configuration():
    def vllm(additional, load_format="alphasteer"):
        return SimpleNamespace(additional_config=additional, load_config=SimpleNamespace(load_format=load_format))

    assert read_config(vllm(additional_config(OPEN))) == OPEN
    assert is_steered(vllm(None))
    assert not is_steered(vllm(None, "auto"))
    with pytest.raises(SteeringError, match="needs its settings"):
        read_config(vllm({}))
    with pytest.raises(SteeringError, match="digest"):
        read_config(vllm({"alphasteer": {"folder": "x"}}))


def test_a_method_is_wrapped_once_and_only_if_it_is_the_one_that_is_known():
    class Runner:
        def step(self, batch, count):
            return batch + count

    def around(original, runner, batch, count):
        return -original(runner, batch, count)

    for _ in range(2):
        wrap(Runner, "step", ["batch"], around)
    assert Runner().step(1, count=2) == -3
    with pytest.raises(SteeringError, match=r"Runner\.gone is gone"):
        wrap(Runner, "gone", [], around)

    class Changed:
        def step(self, everything):
            return everything

    with pytest.raises(SteeringError, match="takes everything"):
        wrap(Changed, "step", ["batch"], around)


def test_the_server_s_process_gets_what_steering_needs_and_keeps_the_key_out_of_sight():
    arguments = server_command(CLOSED, "org/model", name="m", host="::", port=1, dtype="auto", more=["--seed", "3"])
    assert arguments[arguments.index("--load-format") + 1] == "alphasteer"
    assert "--no-async-scheduling" in arguments
    assert "--shutdown-timeout" in arguments
    assert arguments[arguments.index("--seed") + 1] == "3"
    assert arguments[arguments.index("--middleware") + 1] == "alphasteer.engines.vllm.front.Front"
    environment = server_environment({"HOME": "/h"}, "secret-key", Limits(seconds=7))
    limits = {"ALPHASTEER_LIMITS": '{"most_bytes":1048576,"seconds":7.0}'}
    assert environment == {"HOME": "/h", "VLLM_USE_V2_MODEL_RUNNER": "0", "VLLM_API_KEY": "secret-key", **limits}
    second = server_environment({"VLLM_USE_V2_MODEL_RUNNER": "1"}, None, Limits(seconds=7))
    assert second == {"VLLM_USE_V2_MODEL_RUNNER": "1", **limits}
    assert "secret-key" not in " ".join(arguments)


def test_nothing_that_is_handed_on_takes_the_steering_off():
    """Of an option given twice the last counts, so what steering needs comes last."""
    more = ["--load-format", "auto", "--additional-config={}", "--async-scheduling"]
    arguments = server_command(CLOSED, "org/model", name="m", host="::", port=1, dtype="auto", more=more)
    places = [place for place, argument in enumerate(arguments) if argument == "--load-format"]
    assert [arguments[place + 1] for place in places] == ["auto", "alphasteer"]
    assert arguments.index("--additional-config") > arguments.index("--additional-config={}")
    assert arguments.index("--async-scheduling") > arguments.index("--no-async-scheduling"), "which may be chosen"


@pytest.mark.parametrize("option", ["--chat-template", "--chat_template=x", "--trust-request-chat-template"])
def test_no_template_is_taken_that_the_gate_does_not_know(option):
    with pytest.raises(SteeringError, match="the model's own template alone"):
        server_command(CLOSED, "m", name="m", host="::", port=1, dtype="auto", more=[option, "other.jinja"])


@pytest.mark.parametrize(
    ("asked", "most", "found"), [(None, None, None), (50, None, 50), (None, 8, 8), (50, 8, 8), (5, 8, 5)]
)
def test_replies_are_no_longer_than_the_operator_wants(asked, most, found):
    params = SimpleNamespace(max_tokens=asked)
    bound(params, CLOSED.model_copy(update={"most_tokens": most}))
    assert params.max_tokens == found
    bound(SimpleNamespace(), CLOSED.model_copy(update={"most_tokens": 8}))  # pooling
    beams = SimpleNamespace(max_completion_tokens=None, max_tokens=asked, use_beam_search=True)
    bound_beams(beams, CLOSED.model_copy(update={"most_tokens": most}))
    assert (beams.max_completion_tokens or beams.max_tokens) == found, "a beam search asks for one token a step"
    plain = SimpleNamespace(max_tokens=asked, use_beam_search=False)
    bound_beams(plain, CLOSED.model_copy(update={"most_tokens": most}))
    assert plain.max_tokens == asked


def test_salts_tell_any_two_strengths_apart():
    assert salted(None, asking(0.1234567), OPEN) != salted(None, asking(0.1234568), OPEN)


def test_an_engine_whose_self_test_failed_fails_whenever_it_is_asked(monkeypatch):
    wrappers = pytest.importorskip("alphasteer.engines.vllm.wrappers")
    core = SimpleNamespace(vllm_config=None)

    def failing(core, config):
        raise SteeringError("The self-test failed.")

    monkeypatch.setattr(wrappers, "is_steered", lambda _: True)
    monkeypatch.setattr(wrappers, "read_config", lambda _: CLOSED)
    monkeypatch.setattr(wrappers, "check_self_test", failing)
    for _ in range(2):
        with pytest.raises(SteeringError, match="self-test failed"):
            wrappers.get_supported_tasks(lambda _: ("generate",), core)
    monkeypatch.setattr(wrappers, "check_self_test", lambda core, config: None)
    assert wrappers.get_supported_tasks(lambda _: ("generate",), core) == ("generate",)


END = PromptEnd((3, 4), 0, 1, 5)


@given(
    st.lists(st.lists(st.sampled_from([1, 3, 4, 6, 7, 8]), min_size=2, max_size=30), min_size=1, max_size=6),
    st.integers(1, 7),
    st.integers(0, 2),
)
def test_windows_are_the_spans_of_prompt_ends(rows, most, skipped):
    """Vectors say of all reply starts at once what ``PromptEnd.span`` says of each."""
    end = PromptEnd((3, 4), skipped, 1, most)
    tokens = torch.full((len(rows), 30), -1)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)] = torch.tensor(ids)
    every = [(row, place) for row, ids in enumerate(rows) for place in range(1, len(ids))]
    places, weight = window(tokens, *(torch.tensor(each) for each in zip(*every, strict=True)), 2, end)
    for number, (row, place) in enumerate(every):
        begin, stop = end.span(rows[row][: place + 1], 2)
        assert places[number][weight[number] > 0].tolist() == list(range(begin, stop))
        assert not len(range(begin, stop)) or weight[number].sum() == pytest.approx(1)


def prompt_end_push(generator):
    def vector(*shape):
        return torch.randn(*shape, generator=generator)

    return Push(Gate({0: vector(3, 2, 12), 2: vector(3, 2, 12)}, -0.5, 1.5), {2: vector(6), 3: vector(6)}, 0.7)


@pytest.mark.parametrize("runner", ["first", "second"])
@given(data=st.data())
def test_prompts_in_pieces_are_read_as_wholes(runner, data):
    """Requests whose tokens come in steps of any size, some of them waiting: gates read what the formula says."""
    generator = torch.Generator().manual_seed(0)
    steering = Steering((prompt_end_push(generator), two_pushes().pushes[0]), MARKER, prompt_end=END)
    chats = data.draw(
        st.lists(st.lists(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8]), min_size=1, max_size=12), min_size=1, max_size=4)
    )
    chats = [[1, 2, 3, 4, *chat, 6, *MARKER, 2, 2, 3, 4, *chat[:2], 6, *MARKER] for chat in chats]
    streams = {n: [torch.randn(len(chat), 6, generator=generator) for chat in chats] for n in (0, 2)}
    slots, most_tokens, length = len(chats) + 1, 40, max(map(len, chats)) + 1
    device = torch.device("cpu")
    ends = PromptEndBuffers([6, 2], END, len(MARKER), period(MARKER), most_tokens, slots, device)
    step = StepBuffers([push.gate for push in steering.pushes], most_tokens, device, ends)
    layers = {n: LayerSteering(steering, n, step, device, eager=True) for n in (0, 2)}
    filler = StepFiller(step, MARKER, OPEN) if runner == "first" else SecondStepFiller(step, MARKER, OPEN, slots)
    table = torch.full((slots, length), -1)
    names, params = [f"r{n}" for n in range(len(chats))], asking(1.0)
    for n, chat in enumerate(chats):
        table[n + 1, : len(chat)] = torch.tensor(chat)  # of the second runner: slots are no rows
        if runner == "second":
            filler.add(n + 1, SimpleNamespace(sampling_params=params, prefill_token_ids=chat, prompt_len=len(chat)))
    computed = [0] * len(chats)
    found = {}
    while any(c < len(chat) for c, chat in zip(computed, chats, strict=True)):
        going = [n for n, chat in enumerate(chats) if computed[n] < len(chat)]
        going = data.draw(st.lists(st.sampled_from(going), min_size=1, unique=True))
        sizes = [data.draw(st.integers(1, min(10, len(chats[n]) - computed[n]))) for n in going]
        begins, scheduled = np.array([computed[n] for n in going]), np.array(sizes)
        lengths = np.array([len(chats[n]) for n in going])
        if runner == "first":
            tokens = table[[n + 1 for n in going]].numpy()
            batch = first_batch([names[n] for n in going], tokens, begins, lengths)
            requests = {name: SimpleNamespace(sampling_params=params) for name in names}
            filler.fill(SimpleNamespace(input_batch=batch, requests=requests), scheduled)
        else:
            batch = second_batch([names[n] for n in going], np.array([n + 1 for n in going]), begins, scheduled)
            filler.fill(batch, table)
        for layer in (0, 2):
            parts = [streams[layer][n][computed[n] : computed[n] + s] for n, s in zip(going, sizes, strict=True)]
            layers[layer](torch.cat(parts), None)
        at = 0
        for n, size in zip(going, sizes, strict=True):
            for place in range(computed[n], computed[n] + size):
                found[n, place] = float(step.scores[0, at])
                at += 1
            computed[n] += size
    for n, chat in enumerate(chats):
        for place in range(1, len(chat)):
            if tuple(chat[place - 1 : place + 1]) == MARKER:
                begin, stop = END.span(chat[: place + 1], len(MARKER))
                total = torch.zeros(3, 2)
                for layer, w in steering.pushes[0].gate.w.items():
                    h = streams[layer][n]
                    mean = h[begin:stop].mean(0) if begin < stop else torch.zeros(6)
                    total += w @ torch.cat([h[place], mean])
                assert found[n, place] == pytest.approx(float(total.amax(1).mean()), abs=1e-4)


def test_what_pads_a_captured_step_reaches_nothing():
    """Its rows may hold what is no number; they are multiplied by nothing, and nothing of them is kept."""
    steering = Steering((prompt_end_push(torch.Generator().manual_seed(0)),), MARKER, prompt_end=END)
    device = torch.device("cpu")
    ends = PromptEndBuffers([6], END, len(MARKER), period(MARKER), 16, 2, device)
    step = StepBuffers([push.gate for push in steering.pushes], 16, device, ends)
    layers = {n: LayerSteering(steering, n, step, device, eager=False) for n in (0, 2)}
    filler, tokens = StepFiller(step, MARKER, OPEN), np.array([[1, 3, 4, 2, 6, 7, 8, 2, 2]])
    requests = {"a": SimpleNamespace(sampling_params=asking(1.0))}
    for begin, size in ((0, 7), (7, 1), (8, 1)):
        batch = first_batch(["a"], tokens, np.array([begin]), np.array([7]))
        filler.fill(SimpleNamespace(input_batch=batch, requests=requests), np.array([size]))
        padded = torch.cat([torch.randn(size, 6), torch.full((3, 6), torch.nan)])
        assert all(layers[n](padded, None)[:size].isfinite().all() for n in (0, 2))
        assert step.scores[0, :size].isfinite().all()


@pytest.mark.parametrize(("marker", "apart"), [((7, 8), 2), ((7, 8, 7), 2), ((7, 7), 1), ((7,), 1), ((7, 8, 9), 3)])
def test_reply_starts_may_overlap(marker, apart):
    assert period(marker) == apart


@given(
    st.lists(st.sampled_from([6, 7, 8]), min_size=1, max_size=40),
    st.integers(0, 40),
    st.integers(2, 12),
)
def test_no_end_that_is_still_to_be_read_comes_from_the_cache(ids, cached, reach):
    cached = min(cached, len(ids) - 1)
    most = most_cached(ids, cached, MARKER, reach)
    ends = [n + 1 for n in range(1, len(ids)) if tuple(ids[n - 1 : n + 1]) == MARKER]

    def allowed(taken):
        return all(taken >= end or taken <= max(0, end - reach) for end in ends)

    assert most == max(taken for taken in range(cached + 1) if allowed(taken))


def test_more_requests_than_slots_take_those_of_the_ones_that_wait_longest():
    ends = PromptEndBuffers([1], END, len(MARKER), 2, 8, 2, torch.device("cpu"))
    filler = StepFiller(StepBuffers([two_pushes().pushes[0].gate], 8, torch.device("cpu"), ends), MARKER, OPEN)
    requests = dict.fromkeys("abcd")
    assert filler._slots_of(["a", "b"], requests, 2) == [0, 1]
    assert filler._slots_of(["b", "a"], requests, 2) == [1, 0]
    assert filler._slots_of(["a"], requests, 2) == [0]
    assert filler._slots_of(["a", "c"], requests, 2) == [0, 1], "b was there before a"
    assert filler._slots_of(["d"], {"c": None, "d": None}, 2) == [0], "a has ended"


@pytest.mark.parametrize(("device", "drawn"), [("cpu", [1]), ("cuda", [0, 1, 2])])
def test_a_cpus_generators_draw_nothing_that_would_have_to_be_taken_back(device, drawn):
    """vLLM winds the generator of an unfinished prompt back, of which a CPU's dies, and the engine with it."""
    generators = {index: torch.Generator() for index in range(3)}
    batch = SimpleNamespace(generators=dict(generators), num_reqs=4)
    unfinished = SimpleNamespace(np=np.array([True, False, True, True, True]))
    runner = SimpleNamespace(device=torch.device(device), input_batch=batch, discard_request_mask=unfinished)
    with undrawn(runner):
        assert sorted(batch.generators) == drawn
    assert batch.generators == generators
    with undrawn(SimpleNamespace()):  # the second model runner
        pass
