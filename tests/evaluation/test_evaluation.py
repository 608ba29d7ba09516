"""Comparing with and without steering: counts, intervals, tables, pictures."""

import json
from dataclasses import replace
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
import torch
from conftest import hand_made
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from alphasteer.errors import PromptError
from alphasteer.evaluation import (
    Outcome,
    Suite,
    evaluate,
    gate_figure,
    markdown_table,
    pca_figure,
    results,
    right_choice,
    sign_test,
    wilson,
)
from alphasteer.evaluation.intervals import area_interval, area_test, mean_interval
from alphasteer.prompts import ChatTemplate, Prompt, PromptSet
from alphasteer.replies import Reply, generate_replies
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


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=12), st.lists(st.integers(-3, 3), min_size=2, max_size=12))
def test_the_areas_interval_is_delongs(low, high):
    """Written out: the variance of each prompt's share of pairs won, over the number of prompts, of both sides."""

    def won(a, b):
        return 1.0 if a > b else 0.5 if a == b else 0.0

    area = sum(won(a, b) for a in high for b in low) / (len(high) * len(low))
    of_high = [sum(won(a, b) for b in low) / len(low) for a in high]
    of_low = [sum(won(a, b) for a in high) / len(high) for b in low]
    variance = sum(
        sum((share - area) ** 2 for share in shares) / (len(shares) - 1) / len(shares) for shares in (of_high, of_low)
    )
    half = 1.96 * variance**0.5
    assert area_interval(low, high) == pytest.approx((max(0.0, area - half), min(1.0, area + half)))


def suite(name, texts, kind="safety", metric="refusal"):
    return Suite(name, kind, metric, PromptSet.of(texts, name))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_the_sign_test_of_yes_and_no_is_mcnemars(pairs):
    differing = [b for a, b in pairs if a != b]
    expected = binomtest(sum(differing), len(differing)).pvalue if differing else 1.0
    assert sign_test([a for a, _ in pairs], [b for _, b in pairs]) == pytest.approx(expected)


def test_the_sign_test_asks_which_of_two_values_is_higher_not_by_how_much():
    assert sign_test([0.1, 0.2, 0.3, 5.0, 1.0], [9.0, 0.3, 0.4, 5.1, 1.0]) == pytest.approx(2 * 0.5**4)


SCORES = st.integers(-3, 3)


@given(
    st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=12),
    st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=12),
)
def test_areas_on_the_same_prompts_are_compared_as_delong_does(low, high):
    """Written out: the variance of the difference from both areas' variances and their covariance."""

    def shares(which, of, over):
        return [sum(1.0 if (s := (a[which] - b[which])) > 0 else 0.5 * (s == 0) for b in over) / len(over) for a in of]

    of_high = [shares(which, high, low) for which in (0, 1)]
    of_low = [[1 - share for share in shares(which, low, high)] for which in (0, 1)]
    difference = np.mean(of_high[0]) - np.mean(of_high[1])
    variance = 0.0
    for side in (of_high, of_low):
        covariance = np.cov(side)
        variance += (covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]) / len(side[0])
    p = area_test(*(([a[which] for a in low], [a[which] for a in high]) for which in (0, 1)))
    if variance > 1e-12:
        assert p == pytest.approx(2 * norm.sf(abs(difference) / variance**0.5), abs=1e-9)
    else:
        assert p == (1.0 if abs(difference) < 1e-9 else None), "no spread, nothing to test by"


def test_one_prompt_against_one_proves_no_difference_of_areas():
    assert area_test(([0], [0]), ([0], [1])) is None


def test_a_means_interval_is_a_shares_own_and_covers_as_often_as_it_says():
    assert mean_interval([0.3], [wilson(0.3, 20)]) == pytest.approx(wilson(0.3, 20))
    low, high = mean_interval([1.0, 1.0], [wilson(1.0, 20)] * 2)
    assert high == 1.0
    assert 1 - low == pytest.approx((1 - wilson(1.0, 20)[0]) / 2**0.5), "two suites of 20 are not as sure as one of 40"
    draw, true = np.random.default_rng(0), np.array([0.95, 0.6, 0.99, 0.3])
    covered = 0
    for counts in draw.binomial(20, true, (2000, 4)):
        low, high = mean_interval(counts / 20, [wilson(share, 20) for share in counts / 20])
        covered += low <= true.mean() <= high
    assert 0.935 <= covered / 2000 <= 0.985


@pytest.fixture
def outcomes():
    """Judged by hand: the steered arm refuses two of four, and rambles once."""
    refused = suite("attack", ["a", "b", "c", "d"])
    sums = suite("sums", ["1+1", "2+2"], "utility", "maths")
    marks = {
        "vanilla": {"refusal": (False, False, True, False), "coherent": (True,) * 4, "identical": (True,) * 4},
        "steered": {
            "refusal": (True, False, True, False),
            "coherent": (True, True, True, False),
            "identical": (False, True, True, False),
        },
    }
    same = {arm: {name: (name != "refusal",) * 2 for name in marks["vanilla"]} for arm in marks}
    replies = dict.fromkeys(marks, (NO, YES, NO, YES))
    right = {arm: {**same[arm], "accuracy": (True, arm == "vanilla")} for arm in marks}
    return [Outcome(refused, replies, marks), Outcome(sums, dict.fromkeys(marks, (YES, YES)), right)]


def test_averages_are_compared_on_all_prompts_that_they_are_over(outcomes):
    attack, sums = outcomes
    strong = {**attack.marks, "steered": {**attack.marks["steered"], "refusal": (True, True, None, True)}}
    found = results(
        [attack, replace(attack, suite=suite("more", "efgh"), marks=strong), sums], model="t", steering=None
    )
    # Refused by the steered arm alone: one of the first suite, three of the second, where a fourth has no verdict.
    tests = found["tests"]["vanilla"]["steered"]
    assert tests["dsr"] == pytest.approx(2 * 0.5**4)
    assert tests["utility"] == 1.0, "one answer differs"
    assert set(tests) == {"dsr", "utility"}, "how alike an arm is to vanilla needs no test with it"


def test_results_follow_their_published_schema(outcomes):
    found = results(outcomes, model="tiny", steering="abc")
    schema = json.loads(files("alphasteer.evaluation").joinpath("results.schema.json").read_text())
    jsonschema.validate(found, schema)
    steered = found["suites"]["attack"]["metrics"]["steered"]
    assert (steered["refusal"]["value"], steered["identical"]["value"], steered["coherent"]["value"]) == (
        0.5,
        0.5,
        0.75,
    )
    assert steered["refusal"]["low"] < 0.5 < steered["refusal"]["high"]
    assert found["suites"]["attack"]["p_values"]["steered"]["refusal"] == 1.0
    assert found["averages"]["steered"] == {"dsr": 0.5, "over_refusal": None, "utility": 0.5, "identical": 1.0}
    assert found["suites"]["attack"]["p_values_between"] == {}
    third = [replace(o, marks={**o.marks, "other": o.marks["vanilla"]}) for o in outcomes]
    between = results(third, model="tiny", steering="abc", settings={"judge": "phrases"})
    jsonschema.validate(between, schema)
    assert between["suites"]["attack"]["p_values_between"]["steered"]["other"]["identical"] == 0.5
    assert {one: list(rest) for one, rest in between["tests"].items()} == {
        "vanilla": ["steered", "other"],
        "steered": ["other"],
    }
    for damage in ({"arms": ["steered"]}, {"format": 2}, {"suites": {"x": {}}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**found, **damage}, schema)


def test_the_table_has_a_row_a_suite_and_the_averages(outcomes):
    table = markdown_table(results(outcomes, model="tiny", steering=None))
    assert "| suite | n | metric | vanilla | steered | identical, steered |" in table
    assert "| attack | 4 | refused | 25.0% (5%-70%) | 50.0% (15%-85%) | 50.0% |" in table
    assert "| average |  | utility: right | 100.0% (34%-100%) | 50.0% (9%-91%) |  |" in table
    assert "| average |  | harmless: identical | 100.0% | 100.0% (34%-100%) |  |" in table, "to itself: certain"


def test_halves_are_rounded_up_whatever_floats_make_of_them():
    thirteen_of_sixteen = {"vanilla": {"refusal": (True,) * 13 + (False,) * 3, "identical": (True,) * 16}}
    texts = [f"p{n}" for n in range(16)]
    one = Outcome(suite("attack", texts), {"vanilla": (NO,) * 16}, thirteen_of_sixteen)
    assert "| attack | 16 | refused | 81.3% (57%-93%) |" in markdown_table(results([one], model="t", steering=None))


def test_evaluating_a_tiny_model_resumes_and_leaves_it_unsteered(llama, tokenizer, tmp_path):
    steering = hand_made(llama, ChatTemplate(tokenizer).reply_start)
    suites = [suite("one", ["hello", "who are you?"]), suite("two", ["tell me more"], "utility", "identical")]

    def run(arm=steering):
        arms = {"vanilla": None, "steered": arm}
        return evaluate(llama, tokenizer, suites, arms, LogReporter(), shelf=Shelf(tmp_path), max_new_tokens=5)

    first = run()
    assert [(outcome.suite.name, len(outcome)) for outcome in first] == [("one", 2), ("two", 1)]
    sequences = ChatTemplate(tokenizer).render_all(suites[0].prompts.prompts)
    plain = generate_replies(llama, tokenizer, sequences, LogReporter(), max_new_tokens=5)
    assert list(first[0].replies["vanilla"]) == plain
    with steering.attach(llama):
        assert list(first[0].replies["steered"]) == generate_replies(
            llama, tokenizer, sequences, LogReporter(), max_new_tokens=5
        )
    assert any(outcome.share("steered", "identical") < 1 for outcome in first)
    ran = []
    handle = llama.register_forward_hook(lambda *_: ran.append(1))
    assert run() == first
    handle.remove()
    assert not ran, "finished replies are not generated again"
    weaker = run(steering.scaled(0))
    assert all(outcome.share("steered", "identical") == 1 for outcome in weaker), "another steering, other replies"


def test_right_answers_are_counted_where_they_are_known(llama, tokenizer):
    questions = PromptSet.of([Prompt("q", ({"role": "user", "content": "?"},), answer="A", choices=("x", "y"))], "quiz")
    (outcome,) = evaluate(
        llama,
        tokenizer,
        [Suite("quiz", "utility", "choice", questions)],
        {"vanilla": None},
        LogReporter(),
        shelf=Shelf(),
        max_new_tokens=2,
    )
    (reply,) = outcome.replies["vanilla"]
    assert outcome.marks["vanilla"]["accuracy"] == (right_choice(reply.text, "A", ("x", "y")),)


@pytest.mark.parametrize(
    ("suites", "message"),
    [
        ([suite("long", ["x" * 480])], "that the model's context leaves"),
        ([suite("twice", ["a"]), suite("twice", ["b"])], "Two suites are called 'twice'"),
    ],
)
def test_suites_that_cannot_be_replied_to_are_refused(llama, tokenizer, suites, message):
    with pytest.raises(PromptError, match=message):
        evaluate(llama, tokenizer, suites, {"vanilla": None}, LogReporter(), shelf=Shelf(), max_new_tokens=40)


def test_figures_are_drawn(llama, tmp_path):
    steering = hand_made(llama, (5,), threshold=0.2, ceiling=0.8)
    activations = {name: {n: torch.randn(9, 32) for n in (1, 2)} for name in ("benign", "harmful")}
    gate_figure(tmp_path / "gate.png", steering, activations, {n: torch.randn(32) for n in (1, 2)})
    flat = {name: by_layer[1] for name, by_layer in activations.items()}
    pca_figure(tmp_path / "pca.png", flat, {name: a + 1 for name, a in flat.items()}, 3)
    for name in ("gate.png", "pca.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
