"""Judges: the default, a user's own, and what happens where one fails."""

import pytest
from conftest import hand_made

from alphasteer.errors import EvaluationError
from alphasteer.evaluation import Suite, evaluate, read_judge, results, verdicts
from alphasteer.prompts import ChatTemplate, PromptSet
from alphasteer.replies import Reply, refuses
from alphasteer.reporting import LogReporter
from alphasteer.resuming import Journal, Shelf

OWN = """
from alphasteer.errors import EvaluationError

class Own:
    asked = 0

    def __call__(self, request, reply):
        Own.asked += 1
        if "odd" in request:
            raise EvaluationError("The endpoint is asleep.")
        return "even" in request

def function(request, reply):
    return request == reply

number = 7
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_the_default_goes_by_phrases():
    judge = read_judge("phrases")
    for reply in ("I'm sorry, but I can't help with that.", "Sure, here is what you do."):
        assert judge("anything", reply) is refuses(reply)


def test_a_judge_is_a_function_or_a_class_from_a_file_or_a_package(own):
    assert read_judge(f"{own}:function")("a", "a") is True
    assert read_judge(f"{own}:Own")("even", "") is True
    assert read_judge("alphasteer.evaluation.judges:by_phrases")("", "I'm sorry, but I can't help with that.") is True


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mine", "names no judge"),
        ("nowhere.to.be.found:Judge", "cannot be imported"),
        ("{own}:Absent", "has no Absent"),
        ("{own}:number", "cannot be called"),
        ("missing.py:Judge", "is no Python file"),
    ],
)
def test_judges_that_are_not_there_are_refused(own, spec, message):
    with pytest.raises(EvaluationError, match=message):
        read_judge(spec.format(own=own))


def test_verdicts_are_kept_and_failures_are_tried_again(own, tmp_path):
    pairs = [("even 0", "x"), ("odd 1", "x"), ("even 2", "x")]
    judge = read_judge(f"{own}:Own")
    path = tmp_path / "verdicts.jsonl"
    assert verdicts(judge, pairs, Journal(path)) == (True, None, True)
    asked = type(judge).asked
    assert verdicts(judge, pairs, Journal(path)) == (True, None, True)
    assert type(judge).asked == asked + 1, "only the one that failed"


def test_what_was_not_judged_stands_in_no_share(llama, tokenizer, own, tmp_path):
    said = []

    class Listener(LogReporter):
        def say(self, message):
            said.append(message)

    suites = [Suite("mixed", "safety", "refusal", PromptSet.of(["even 0", "odd 1", "other 2"]))]
    arms = {"vanilla": None, "steered": hand_made(llama, ChatTemplate(tokenizer).reply_start)}
    (outcome,) = evaluate(
        llama, tokenizer, suites, arms, Listener(), shelf=Shelf(tmp_path), max_new_tokens=3, judge=f"{own}:Own"
    )
    assert outcome.marks["steered"]["refusal"] == (True, None, False)
    found = results([outcome], model="tiny", steering=None)["suites"]["mixed"]
    assert (found["metrics"]["steered"]["refusal"]["value"], found["unjudged"]["steered"]) == (0.5, 1)
    assert any("could not say of 2 replies" in message for message in said)


def test_a_suite_that_nobody_judged_counts_for_nothing(llama, tokenizer, own):
    suites = [
        Suite("judged", "safety", "refusal", PromptSet.of(["even 0", "even 2"])),
        Suite("unjudged", "safety", "refusal", PromptSet.of(["odd 1", "odd 3"])),
    ]
    outcomes = evaluate(
        llama, tokenizer, suites, {"vanilla": None}, LogReporter(), shelf=Shelf(), max_new_tokens=3, judge=f"{own}:Own"
    )
    assert results(outcomes, model="tiny", steering=None)["averages"]["vanilla"]["dsr"] == 1.0


def test_a_judge_whose_file_has_changed_is_asked_anew(llama, tokenizer, own, tmp_path):
    suites = [Suite("mixed", "safety", "refusal", PromptSet.of(["even 0", "even 2"]))]

    def refused():
        shelf = Shelf(tmp_path / "work")
        spec = f"{own}:function"
        (outcome,) = evaluate(
            llama, tokenizer, suites, {"vanilla": None}, LogReporter(), shelf=shelf, max_new_tokens=3, judge=spec
        )
        return outcome.marks["vanilla"]["refusal"]

    own.write_text("def function(request, reply): return True")
    assert refused() == (True, True)
    own.write_text("def function(request, reply): return False")
    assert refused() == (False, False)


def test_refusal_phrases_in_noise_are_no_refusal(llama, tokenizer, monkeypatch):
    """The unsteered model is asked whether another arm's reply is language; what it says decides."""
    said = {
        "vanilla": [Reply((1, 2), "Sure, here is what you do.")],
        "steered": [Reply((3, 4), "I'm sorry, but I can't help with that.")],
    }
    monkeypatch.setattr("alphasteer.evaluation.evaluating.compare_replies", lambda *_, **__: said)
    suites = [Suite("bad", "safety", "refusal", PromptSet.of(["steal"]))]
    arms = {"vanilla": None, "steered": hand_made(llama, ChatTemplate(tokenizer).reply_start)}
    for surprise, refused in ((1.0, True), (9.0, False)):
        monkeypatch.setattr("alphasteer.evaluation.evaluating.surprises", lambda *_, s=surprise, **__: [s])
        (outcome,) = evaluate(llama, tokenizer, suites, arms, LogReporter(), shelf=Shelf())
        assert outcome.marks["steered"]["refusal"] == (refused,)
        assert outcome.marks["steered"]["coherent"] == (refused,)
        assert outcome.marks["vanilla"]["coherent"] == (True,)
