"""Every baseline against its published formula, written out here, on a tiny model."""

import pytest
import torch
from conftest import let_letters_refuse, tiny_model, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from alphasteer.baselines import BASELINES, fit_baseline
from alphasteer.baselines.cast import best_f1
from alphasteer.baselines.directions import principal
from alphasteer.baselines.jailbreak_antidote import sparse
from alphasteer.baselines.strength import STRENGTHS, share_spoilt, windows
from alphasteer.baselines.surgical import false_refusal, without
from alphasteer.learning import Evidence, FitSettings, fit_gate
from alphasteer.learning.examples import gather
from alphasteer.prompts import PromptSet
from alphasteer.replies import Reply
from alphasteer.reporting import LogReporter
from alphasteer.resuming import Shelf
from alphasteer.steering import Gate, Push, Steering

BENIGN = [f"tell me about {thing} number {n}" for thing in ("cake", "rain", "law") for n in range(16)]
HARMFUL = [f"help me {verb} it {n}!" for verb in ("STEAL", "BREAK", "BURN") for n in range(16)]
SETTINGS = FitSettings(starter=False, replies=48, reply_tokens=4)


@pytest.fixture
def evidence(monkeypatch):
    let_letters_refuse(monkeypatch, "learning.contrast", "baselines.surgical")
    model = tiny_model("Llama")
    examples = gather([PromptSet.of(BENIGN, "b")], [PromptSet.of(HARMFUL, "h")], SETTINGS, LogReporter())
    return Evidence(model, tiny_tokenizer(), examples, SETTINGS, LogReporter(), Shelf(), every_layer=True)


def means_apart(evidence, layer):
    sides = evidence.observed.contrasts[0]
    refused, complied = (evidence.readings.of(p, "x")[layer].double() for p in (sides.refused, sides.complied))
    return refused.mean(0) - complied.mean(0)


def close(a, b):
    torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-6)


def layer_inputs(model, ids, steering=None):
    """The residual stream at every decoder layer's input, (layers, tokens, d), and at the output."""
    seen = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, kwargs: seen.append(args[0].clone()), with_kwargs=True)
        for layer in model.model.layers
    ]
    try:
        model(input_ids=ids)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def test_refusal_vector_adds_the_difference_of_means_to_every_prompt_position(evidence):
    steering = BASELINES["refusal_vector"](evidence)((2, 3), 0.5)
    (push,) = steering.pushes
    assert set(push.directions) == {2, 3}
    for layer, r in push.directions.items():
        close(r, means_apart(evidence, layer))
    ids = torch.tensor([evidence.template.render_all([evidence.examples.benign[0].fit.prompts[0]])[0]])
    with torch.no_grad():
        plain = layer_inputs(evidence.model, ids)[2]
        with steering.attach(evidence.model):
            steered = layer_inputs(evidence.model, ids)[2]
    close(steered, plain + 0.5 * means_apart(evidence, 2).float())


def test_surgical_takes_the_false_refusal_out_of_the_vector(evidence):
    (push,) = BASELINES["surgical"](evidence)((2, 3), 1.0).pushes
    benign = evidence.sample(evidence.examples.benign, evidence.settings.replies)
    replies = evidence.short_replies(benign, "benign")
    refused = [p for p, reply in zip(benign, replies, strict=True) if sum(map(ord, reply.text)) % 2 == 0]
    answered = [p for p in benign if p not in refused]
    assert len(refused) >= 8
    assert answered
    for layer, clean in push.directions.items():
        high, low = (evidence.readings.of(side, "x")[layer].double().mean(0) for side in (refused, answered))
        false = (high - low) / (high - low).norm()
        r = means_apart(evidence, layer)
        close(clean, r - (r @ false) * false)
        assert abs(float(clean.double() @ false)) < 1e-5


def test_surgical_falls_back_on_benign_prompts_that_lie_furthest_along_the_direction(evidence, monkeypatch):
    monkeypatch.setattr("alphasteer.baselines.surgical.refuses", lambda text: False)
    layer = evidence.readings.layers[len(evidence.readings.layers) // 2]
    false = false_refusal(evidence)[layer]
    assert float(false @ means_apart(evidence, layer)) > 0


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_a_vector_without_another_is_orthogonal_to_it(seed):
    r, false = torch.randn(2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert abs(float(without(r, false) @ false)) < 1e-9
    close(without(without(r, false), false), without(r, false))


def test_jailbreak_antidote_pushes_the_largest_twentieth_of_the_main_component(evidence):
    (push,) = BASELINES["jailbreak_antidote"](evidence)((2, 2), 1.0).pushes
    sides = evidence.observed.contrasts[0]
    refused, complied = (evidence.readings.of(p, "x")[2].double() for p in (sides.refused, sides.complied))
    most = max(len(refused), len(complied))
    pairs = torch.stack([refused[i % len(refused)] - complied[i % len(complied)] for i in range(most)])
    values, vectors = torch.linalg.eigh(pairs.T @ pairs)
    main = vectors[:, values.argmax()] * means_apart(evidence, 2).norm()
    main = main * torch.sign(main @ pairs.mean(0))
    kept = main.abs().argsort(descending=True)[:2]  # 5 % of 32 dimensions
    expected = torch.zeros(32, dtype=torch.float64)
    expected[kept] = main[kept]
    close(push.directions[2], expected)


def test_sparse_keeps_a_twentieth():
    kept = sparse(torch.arange(-50.0, 50.0))
    assert kept.nonzero().flatten().tolist() == [0, 1, 2, 98, 99]


def test_casts_gate_reads_the_cosine_with_the_condition_vector(evidence):
    steering = BASELINES["cast"](evidence)((2, 3), 1.0)
    gate = steering.pushes[0].gate
    assert gate.layer <= 2
    prompt = evidence.examples.malicious[0].fit.prompts[0]
    ids = torch.tensor([evidence.template.render_all([prompt])[0]])
    h = evidence.readings.of([prompt], "x")[gate.layer][0]
    malicious, benign = (
        evidence.readings.of(side[0].fit.prompts, "x")[gate.layer]
        for side in (evidence.examples.malicious, evidence.examples.benign)
    )
    cosine = torch.nn.functional.cosine_similarity(h.double(), principal(benign, malicious), dim=0)
    with steering.attach(evidence.model) as attached:
        evidence.model(input_ids=ids)
    (reading,) = attached.last_gates
    assert float(reading.scores[0]) == pytest.approx(float(cosine), abs=1e-5)
    assert float(reading.values[0]) == float(cosine > gate.threshold)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1), st.lists(st.integers(0, 9), min_size=1))
def test_best_f1_is_the_best_of_all_thresholds(low, high):
    def f1(threshold):
        hits, false = sum(v > threshold for v in high), sum(v > threshold for v in low)
        return 2 * hits / (hits + false + len(high))

    threshold, found = best_f1(torch.tensor(low).float(), torch.tensor(high).float())
    assert found == pytest.approx(max(f1(t - 0.5) for t in range(11)))
    assert found == pytest.approx(f1(threshold))


def test_the_papers_form_has_a_hard_null_space_gate_a_layer(evidence):
    steering = BASELINES["alphasteer_paper"](evidence)((2, 3), 1.0)
    assert steering.positions == "prompt"
    assert [push.gate.layers for push in steering.pushes] == [(2,), (3,)]
    assert all(push.gate.threshold is None for push in steering.pushes)
    benign, malicious = (
        evidence.readings.of(side[0].fit.prompts, "x")[2]
        for side in (evidence.examples.benign, evidence.examples.malicious)
    )
    possible = []
    for alpha in (1e-3, 1e-2, 1e-1):
        w = fit_gate(benign, malicious, null_space="hard", alpha=alpha)
        possible.append(w / (w @ malicious.double().mean(0)))
    w = steering.pushes[0].gate.w[2].double()
    assert min(float((w - p).norm() / p.norm()) for p in possible) < 1e-4


@pytest.mark.parametrize("name", BASELINES)
def test_the_strength_is_the_one_that_does_most_good_on_held_out_prompts(evidence, monkeypatch, name):
    let_letters_refuse(monkeypatch, "baselines.strength", every=3)
    steering = fit_baseline(name, evidence)
    trials = steering.record["trials"]
    assert {(tuple(t["window"]), t["strength"]) for t in trials} == {(w, s) for w in windows(4) for s in STRENGTHS}
    good = [t["refused"] - t["spoilt"] for t in trials]
    assert good[0] == max(good)
    assert {push.strength for push in steering.pushes} == {trials[0]["strength"]}
    assert min(n for push in steering.pushes for n in push.directions) >= trials[0]["window"][0]
    assert steering.fitted_on == evidence.fingerprint
    assert fit_baseline(name, evidence).digest == steering.digest


def test_a_benign_reply_is_spoilt_if_it_was_an_answer_and_no_longer_is():
    answer, refusal, noise = "Here is a cake for you.", "I'm sorry, but I can't help with that.", "no no no no no no"
    replies = [Reply((), text) for text in (answer, answer, answer, refusal, noise)]
    after = [Reply((), text) for text in (answer, refusal, noise, refusal, noise)]
    assert share_spoilt(replies, after) == pytest.approx(2 / 5)


def test_a_normalised_gate_does_not_see_how_long_the_stream_is(evidence):
    prompt = evidence.examples.benign[0].fit.prompts[0]
    ids = torch.tensor([evidence.template.render_all([prompt])[0]])
    w = torch.randn(32, generator=torch.Generator().manual_seed(1))
    gate = Gate({1: w}, 0.0, 1.0, normalised=True)
    steering = Steering((Push(gate, {2: torch.zeros(32)}),), evidence.template.reply_start)
    h = evidence.readings.of([prompt], "x")[1][0]
    with steering.attach(evidence.model) as attached:
        evidence.model(input_ids=ids)
    expected = float(h @ w) / float(h.square().mean().sqrt())
    assert float(attached.last_gates[0].scores[0]) == pytest.approx(expected, rel=1e-4)
