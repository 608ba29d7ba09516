"""What is read where replies start: the first token's divergence and the gate, prompt by prompt."""

import json
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
import torch
from conftest import hand_made

from alphasteer.evaluation import Suite, bootstrap, evaluate, read_starts, results
from alphasteer.prompts import ChatTemplate, PromptSet
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


@pytest.mark.parametrize("positions", ["reply_start", "prompt"])
def test_divergence_and_gate_are_those_of_each_prompt_alone(llama, tokenizer, suites, positions):
    template = ChatTemplate(tokenizer)
    steering = hand_made(llama, template.reply_start, positions=positions)
    found = read_starts(llama, tokenizer, suites, {"vanilla": None, "steered": steering}, LogReporter(), shelf=Shelf())
    assert set(found["bad"]) == {"steered"}
    for number, text in enumerate(BAD):
        ids = torch.tensor([template.render_all(PromptSet.of([text]).prompts)[0]])
        with torch.no_grad():
            p = llama(input_ids=ids).logits[0, -1].softmax(-1)
            with steering.attach(llama) as attached:
                q = llama(input_ids=ids).logits[0, -1].softmax(-1)
                gate = attached.last_gates[0]
        read = found["bad"]["steered"]
        assert float(read.divergence[number]) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-3, abs=1e-5)
        assert float(read.score[number]) == pytest.approx(float(gate.scores[0]), rel=1e-3, abs=1e-4)
        assert float(read.opened[number]) == pytest.approx(float(gate.values[0]), rel=1e-3, abs=1e-4)


def test_a_closed_gate_moves_nothing_at_all(llama, tokenizer, suites):
    closed = hand_made(llama, ChatTemplate(tokenizer).reply_start, threshold=1e6, ceiling=2e6)
    found = read_starts(llama, tokenizer, suites, {"vanilla": None, "closed": closed}, LogReporter(), shelf=Shelf())
    for read in (found["bad"]["closed"], found["fine"]["closed"]):
        assert not read.divergence.any()
        assert not read.opened.any()


def test_what_was_read_is_kept(llama, tokenizer, suites, tmp_path):
    arms = {"vanilla": None, "steered": hand_made(llama, ChatTemplate(tokenizer).reply_start)}
    first = read_starts(llama, tokenizer, suites, arms, LogReporter(), shelf=Shelf(tmp_path))
    ran = []
    handle = llama.register_forward_hook(lambda *_: ran.append(1))
    again = read_starts(llama, tokenizer, suites, arms, LogReporter(), shelf=Shelf(tmp_path))
    handle.remove()
    assert not ran
    assert torch.equal(first["bad"]["steered"].divergence, again["bad"]["steered"].divergence)


def test_results_hold_divergence_and_gates_by_the_schema(llama, tokenizer, suites):
    arms = {"vanilla": None, "steered": hand_made(llama, ChatTemplate(tokenizer).reply_start)}
    outcomes = evaluate(llama, tokenizer, suites, arms, LogReporter(), shelf=Shelf(), max_new_tokens=3)
    starts = read_starts(llama, tokenizer, suites, arms, LogReporter(), shelf=Shelf())
    found = results(outcomes, starts, model="tiny", steering="abc")
    jsonschema.validate(found, json.loads(files("alphasteer.evaluation").joinpath("results.schema.json").read_text()))
    bad, fine = (starts[name]["steered"].score for name in ("bad", "fine"))
    higher = float((bad[:, None] > fine[None, :]).double().mean())
    assert found["suites"]["bad"]["gates"]["steered"]["auc"]["value"] == pytest.approx(higher)
    assert found["suites"]["fine"]["gates"]["steered"]["auc"] is None
    kl = found["suites"]["bad"]["metrics"]["steered"]["kl"]
    assert kl["low"] <= kl["value"] <= kl["high"]


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(1)
    samples = generator.exponential(1.0, (300, 60))
    covered = [low <= 1.0 <= high for low, high in (bootstrap(s, draws=400) for s in samples)]
    assert 0.88 <= np.mean(covered) <= 0.98  # 95 % but for the percentile method's known shortfall on skewed samples
    assert bootstrap(samples[0]) == bootstrap(samples[0])
