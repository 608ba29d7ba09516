"""Comparing with and without steering: counts, intervals, tables, pictures."""

import pytest
import torch
from conftest import hand_made
from hypothesis import given
from hypothesis import strategies as st

from alphasteer.errors import PromptError
from alphasteer.evaluation import compare, gate_figure, markdown_table, pca_figure, suite_results, wilson
from alphasteer.evaluation.comparing import Outcome, Pair
from alphasteer.prompts import ChatTemplate, PromptSet
from alphasteer.replies import Reply
from alphasteer.reporting import LogReporter
from alphasteer.resuming import Shelf

NO = Reply((1, 2), "I'm sorry, but I can't help with that.")
YES = Reply((3, 4), "Sure, here is what you can do.")


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_bounds_solve_its_equation(counted):
    """The interval ends where (p - share)^2 = z^2 p (1 - p) / n, Wilson's definition (squared: no root of nearly 0)."""
    share, n = counted[0] / counted[1], counted[1]
    low, high = wilson(share, n)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    for bound in (low, high):
        assert (bound - share) ** 2 == pytest.approx(1.96**2 * bound * (1 - bound) / n, abs=1e-12)


def test_an_outcome_counts_refusals_and_what_stayed_the_same():
    pairs = (Pair("a", YES, NO), Pair("b", YES, YES), Pair("c", NO, NO), Pair("d", YES, Reply((5,), "no no no no")))
    outcome = Outcome(pairs, {"vanilla": (False, False, True, False), "steered": (True, False, True, False)})
    assert (outcome.refusal("vanilla"), outcome.refusal("steered")) == (0.25, 0.5)
    assert (outcome.identical("vanilla"), outcome.identical("steered")) == (1.0, 0.5)
    assert (outcome.coherent("vanilla"), outcome.coherent("steered")) == (1.0, 0.75)
    results = suite_results({"suite": outcome})
    steered = results["suite"]["metrics"]["steered"]["refusal"]
    assert (results["suite"]["n"], steered["value"]) == (4, 0.5)
    assert steered["low"] < 0.5 < steered["high"]
    assert "| suite | 4 | 25.0% | 50.0% (15%-85%) | 50.0% | 75.0% |" in markdown_table(results)


def test_comparing_a_tiny_model_resumes_and_leaves_it_unsteered(llama, tokenizer, tmp_path):
    steering = hand_made(llama, ChatTemplate(tokenizer).reply_start)
    suites = {"one": PromptSet.of(["hello", "who are you?"]), "two": PromptSet.of(["tell me more"])}

    def run():
        return compare(llama, tokenizer, steering, suites, LogReporter(), shelf=Shelf(tmp_path), max_new_tokens=5)

    first = run()
    assert {name: len(outcome) for name, outcome in first.items()} == {"one": 2, "two": 1}
    assert [pair.prompt for pair in first["one"].pairs] == ["hello", "who are you?"]
    assert any(pair.vanilla != pair.steered for outcome in first.values() for pair in outcome.pairs)
    ran = []
    handle = llama.register_forward_hook(lambda *_: ran.append(1))
    assert run() == first
    handle.remove()
    assert not ran, "finished replies are not generated again"
    weaker = compare(
        llama, tokenizer, steering.scaled(0), suites, LogReporter(), shelf=Shelf(tmp_path), max_new_tokens=5
    )
    assert all(outcome.identical("steered") == 1 for outcome in weaker.values()), "another steering, other replies"


def test_prompts_that_leave_no_room_for_a_reply_are_refused(llama, tokenizer):
    suites = {"long": PromptSet.of(["x" * 480])}
    with pytest.raises(PromptError, match="more than the model's context"):
        compare(llama, tokenizer, hand_made(llama, (5,)), suites, LogReporter(), shelf=Shelf(), max_new_tokens=40)


def test_figures_are_drawn(llama, tmp_path):
    steering = hand_made(llama, (5,), threshold=0.2, ceiling=0.8)
    activations = {name: {n: torch.randn(9, 32) for n in (1, 2)} for name in ("benign", "harmful")}
    gate_figure(tmp_path / "gate.png", steering, activations, {n: torch.randn(32) for n in (1, 2)})
    flat = {name: by_layer[1] for name, by_layer in activations.items()}
    pca_figure(tmp_path / "pca.png", flat, {name: a + 1 for name, a in flat.items()}, 3)
    for name in ("gate.png", "pca.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
