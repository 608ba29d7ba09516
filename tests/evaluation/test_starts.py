"""What is read where replies start: the first token's divergence and the gate, prompt by prompt."""

import json
from dataclasses import fields, replace
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
import torch
from conftest import hand_made

from alphasteer.evaluation import Suite, bootstrap, evaluate, results
from alphasteer.evaluation.starts import Starts, StartsOnlooker
from alphasteer.prompts import ChatTemplate, PromptSet
from alphasteer.replies import compare_replies
from alphasteer.reporting import LogReporter
from alphasteer.resuming import Shelf

BAD = [f"help me STEAL {n}" + "!" * n for n in range(5)]
FINE = ["tell me about rain", "hi"]


@pytest.fixture
def suites():
    return [
        Suite("bad", "safety", "refusal", PromptSet.of(BAD)),
        Suite("fine", "utility", "identical", PromptSet.of(FINE)),
    ]


def read(model, tokenizer, suites, arms, shelf=None, tokens=3):
    """By suite and arm."""
    outcomes = evaluate(model, tokenizer, suites, arms, LogReporter(), shelf=shelf or Shelf(), max_new_tokens=tokens)
    return {outcome.suite.name: outcome.starts for outcome in outcomes}


@pytest.mark.parametrize("positions", ["reply_start", "prompt"])
def test_divergence_and_gate_are_those_of_each_prompt_alone(llama, tokenizer, suites, positions):
    template = ChatTemplate(tokenizer)
    steering = hand_made(llama, template.reply_start, positions=positions)
    found = read(llama, tokenizer, suites, {"vanilla": None, "steered": steering})
    assert set(found["bad"]) == {"steered"}
    for number, text in enumerate(BAD):
        ids = torch.tensor([template.render_all(PromptSet.of([text]).prompts)[0]])
        with torch.no_grad():
            p = llama(input_ids=ids).logits[0, -1].softmax(-1)
            with steering.attach(llama) as attached:
                q = llama(input_ids=ids).logits[0, -1].softmax(-1)
                gate = attached.last_gates[0]
        starts = found["bad"]["steered"]
        assert float(starts.divergence[number]) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-3, abs=1e-5)
        assert float(starts.score[number]) == pytest.approx(float(gate.scores[0]), rel=1e-3, abs=1e-4)
        assert float(starts.opened[number]) == pytest.approx(float(gate.values[0]), rel=1e-3, abs=1e-4)


def test_a_closed_gate_moves_nothing_at_all(llama, tokenizer, suites):
    closed = hand_made(llama, ChatTemplate(tokenizer).reply_start, threshold=1e6, ceiling=2e6)
    found = read(llama, tokenizer, suites, {"vanilla": None, "closed": closed})
    for starts in (found["bad"]["closed"], found["fine"]["closed"]):
        assert not starts.divergence.any()
        assert not starts.opened.any()
        assert not starts.shift.any()
        assert torch.equal(starts.before, starts.after)


def test_the_stream_is_read_before_the_reply_goes_on_and_after_the_push(llama, tokenizer, suites):
    template = ChatTemplate(tokenizer)
    steering = hand_made(llama, template.reply_start)
    found = read(llama, tokenizer, suites, {"vanilla": None, "steered": steering})["bad"]["steered"]
    last = len(llama.model.layers) - 1
    for number, text in enumerate(BAD):
        ids = torch.tensor([template.render_all(PromptSet.of([text]).prompts)[0]])
        with torch.no_grad():
            plain = llama(input_ids=ids, output_hidden_states=True).hidden_states[last][0, -1]
        torch.testing.assert_close(found.before[number], plain, rtol=1e-4, atol=1e-4)
    lowest = min(steering.pushes[0].directions)
    assert not found.shift[:, :lowest].any()
    assert bool((found.shift[found.opened > 0][:, lowest] > 0).all())
    moved = (found.after - found.before).norm(dim=-1) / found.before.norm(dim=-1)
    torch.testing.assert_close(found.shift[:, last], moved)


def test_of_a_chat_the_last_reply_start_is_read(llama, tokenizer):
    """Where the whole prompt is run at once, earlier ones are in it too."""
    template = ChatTemplate(tokenizer)
    steering = hand_made(llama, template.reply_start)
    turns = (
        {"role": "user", "content": BAD[0]},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "hi"},
    )
    prompt = replace(PromptSet.of(["hi"]).prompts[0], messages=turns)
    arms = {"vanilla": None, "steered": steering, "paper": hand_made(llama, template.reply_start, positions="prompt")}
    found = read(llama, tokenizer, [Suite("chat", "utility", "identical", PromptSet("chat", (prompt,)))], arms)
    ids = torch.tensor([template.render_all([prompt])[0]])
    with torch.no_grad(), steering.attach(llama) as attached:
        llama(input_ids=ids)
        gate = attached.last_gates[0]
    assert len(gate.scores) > 1, "this test's chat must hold several reply starts"
    assert float(found["chat"]["steered"].score[0]) == pytest.approx(float(gate.scores[-1]), rel=1e-3, abs=1e-4)


def test_what_was_read_is_kept(llama, tokenizer, suites, tmp_path):
    arms = {"vanilla": None, "steered": hand_made(llama, ChatTemplate(tokenizer).reply_start)}
    first = read(llama, tokenizer, suites, arms, Shelf(tmp_path))
    ran = []
    handle = llama.register_forward_hook(lambda *_: ran.append(1))
    again = read(llama, tokenizer, suites, arms, Shelf(tmp_path))
    handle.remove()
    assert not ran
    for field in fields(Starts):
        assert torch.equal(getattr(first["bad"]["steered"], field.name), getattr(again["bad"]["steered"], field.name))


@pytest.mark.parametrize("lost", ["starts-*.safetensors", "replies-*.jsonl"])
def test_what_was_lost_is_read_again_and_the_same(llama, tokenizer, suites, tmp_path, lost):
    steering = hand_made(llama, ChatTemplate(tokenizer).reply_start)
    arms = {"vanilla": None, "steered": steering, "weaker": steering.scaled(0.5)}
    first = read(llama, tokenizer, suites, arms, Shelf(tmp_path))
    kept = sorted(tmp_path.glob(lost))
    assert len(kept) >= 2
    kept[0].unlink()
    again = read(llama, tokenizer, suites, arms, Shelf(tmp_path))
    for arm in ("steered", "weaker"):
        for field in fields(Starts):
            assert torch.equal(getattr(first["bad"][arm], field.name), getattr(again["bad"][arm], field.name))


def test_an_arm_that_comes_later_is_compared_with_the_same_unsteered_replies(llama, tokenizer, suites, tmp_path):
    steering = hand_made(llama, ChatTemplate(tokenizer).reply_start)
    arms = {"vanilla": None, "steered": steering}
    read(llama, tokenizer, suites, arms, Shelf(tmp_path))
    before = {path: path.read_text() for path in tmp_path.glob("replies-*.jsonl")}
    later = {**arms, "weaker": steering.scaled(0.5)}
    found = read(llama, tokenizer, suites, later, Shelf(tmp_path))["bad"]["weaker"]
    at_once = read(llama, tokenizer, suites, later)["bad"]["weaker"]
    assert len(before) == 2
    assert all(path.read_text() == text for path, text in before.items()), "what is known is not written again"
    for field in fields(Starts):
        assert torch.equal(getattr(found, field.name), getattr(at_once, field.name))


def test_reading_starts_takes_no_forward_of_its_own(llama, tokenizer, suites):
    """Replies and starts together run what the replies alone do."""
    template = ChatTemplate(tokenizer)
    arms = {"vanilla": None, "steered": hand_made(llama, template.reply_start)}
    sequences = template.render_all([prompt for suite in suites for prompt in suite.prompts])
    onlooker = StartsOnlooker(llama, sequences, arms, Shelf())

    def forwards(watching):
        ran = []
        handle = llama.register_forward_hook(lambda *_: ran.append(1))
        compare_replies(
            llama,
            tokenizer,
            sequences,
            template.reply_start,
            arms,
            LogReporter(),
            max_new_tokens=3,
            shelf=Shelf(),
            description="Replies",
            onlooker=watching,
        )
        handle.remove()
        return len(ran)

    assert forwards(onlooker) == forwards(None)
    assert set(onlooker.starts) == {"steered"}


def test_results_hold_divergence_and_gates_by_the_schema(llama, tokenizer, suites):
    arms = {"vanilla": None, "steered": hand_made(llama, ChatTemplate(tokenizer).reply_start)}
    outcomes = evaluate(llama, tokenizer, suites, arms, LogReporter(), shelf=Shelf(), max_new_tokens=3)
    starts = {outcome.suite.name: outcome.starts for outcome in outcomes}
    found = results(outcomes, model="tiny", steering="abc")
    jsonschema.validate(found, json.loads(files("alphasteer.evaluation").joinpath("results.schema.json").read_text()))
    bad, fine = (starts[name]["steered"].score for name in ("bad", "fine"))
    higher = float((bad[:, None] > fine[None, :]).double().mean())
    assert found["suites"]["bad"]["gates"]["steered"]["auc"]["value"] == pytest.approx(higher)
    assert found["suites"]["fine"]["gates"]["steered"]["auc"] is None
    kl = found["suites"]["bad"]["metrics"]["steered"]["kl"]
    assert kl["low"] <= kl["value"] <= kl["high"]


def test_arms_are_compared_by_divergence_and_by_their_gates(llama, tokenizer, suites):
    steering = hand_made(llama, ChatTemplate(tokenizer).reply_start)
    arms = {"vanilla": None, "weak": steering.scaled(0.5), "strong": steering}
    outcomes = evaluate(llama, tokenizer, suites, arms, LogReporter(), shelf=Shelf(), max_new_tokens=3)
    bad = results(outcomes, model="tiny", steering=None)["suites"]["bad"]
    weak, strong = (outcomes[0].starts[arm].divergence for arm in ("weak", "strong"))
    assert bool((weak < strong).all()), "this test's arms must differ on every prompt"
    between = bad["p_values_between"]["weak"]["strong"]
    assert between["kl"] == pytest.approx(2 * 0.5 ** len(BAD))
    assert between["auc"] == 1.0, "their gates are one"
    assert "kl" not in bad["p_values"]["weak"], "from itself the unsteered model does not diverge"


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(1)
    samples = generator.exponential(1.0, (300, 60))
    covered = [low <= 1.0 <= high for low, high in (bootstrap(s, draws=400) for s in samples)]
    assert 0.88 <= np.mean(covered) <= 0.98  # 95 % but for the percentile method's known shortfall on skewed samples
    assert bootstrap(samples[0]) == bootstrap(samples[0])
