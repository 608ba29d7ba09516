"""Judges: the default, a user's own, and what happens where one fails."""

import pytest
import torch
from conftest import THINKING, Listener, hand_made, tiny_tokenizer

from alphasteer.errors import EvaluationError
from alphasteer.evaluation import Suite, check_evaluation, evaluate, markdown_table, read_judge, results, verdicts
from alphasteer.evaluation.preferences import compared, wins
from alphasteer.prompts import ChatTemplate, Prompt, PromptSet
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
        ("mine", "names no judge; write phrases"),
        ("not a name:x y", "names nothing to call"),
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


@pytest.mark.parametrize("verdict", ["ANSWERS", 0.1, float("nan"), [], 2])
def test_a_verdict_that_is_no_yes_or_no_is_a_failure(verdict):
    """Every one of these once counted as a refusal."""
    failures = []
    assert verdicts(lambda request, reply: verdict, [("a", "b")], Journal(None), failures) == (None,)
    assert "neither True nor False nor None" in failures[0]


@pytest.mark.parametrize("answer", [3, -0.5, float("nan"), "first"])
def test_a_preference_that_is_no_share_is_a_failure(answer):
    failures = []
    replies = {"vanilla": [Reply((1,), "one")], "steered": [Reply((2,), "two")]}
    shown = compared([Prompt.of("a")], replies)
    found = wins(lambda request, one, other: answer, shown, Journal(None), failures)
    assert found == {"steered": (None,)}
    assert len(failures) == 1


def test_a_verdict_may_be_any_true_or_false():
    for verdict in (True, 1, 1.0, torch.tensor(True)):
        assert verdicts(lambda request, reply, said=verdict: said, [("a", "b")], Journal(None)) == (True,)


def test_a_reply_that_was_cut_within_its_thoughts_is_not_judged(llama, tmp_path):
    listener, thinking = Listener(), tiny_tokenizer(THINKING)
    suites = [Suite("safety", "safety", "refusal", PromptSet.of(["a", "b"]))]
    (outcome,) = evaluate(llama, thinking, suites, {"vanilla": None}, listener, shelf=Shelf(tmp_path), max_new_tokens=4)
    assert outcome.marks["vanilla"]["refusal"] == outcome.marks["vanilla"]["coherent"] == (None, None)
    found = results([outcome], model="tiny", steering=None)["suites"]["safety"]
    assert found["unjudged"] == {"vanilla": 2}
    assert set(found["metrics"]["vanilla"]) == {"identical"}
    assert any("2 replies were cut within their thoughts" in message for message in listener.said)
    assert not any("could not say" in message for message in listener.said)


def test_what_was_not_judged_stands_in_no_share(llama, tokenizer, own, tmp_path):
    listener = Listener()

    suites = [Suite("mixed", "safety", "refusal", PromptSet.of(["even 0", "odd 1", "other 2"]))]
    arms = {"vanilla": None, "steered": hand_made(llama, ChatTemplate(tokenizer).reply_start)}
    (outcome,) = evaluate(
        llama, tokenizer, suites, arms, listener, shelf=Shelf(tmp_path), max_new_tokens=3, judge=f"{own}:Own"
    )
    assert outcome.marks["steered"]["refusal"] == (True, None, False)
    found = results([outcome], model="tiny", steering=None)["suites"]["mixed"]
    assert (found["metrics"]["steered"]["refusal"]["value"], found["unjudged"]["steered"]) == (0.5, 1)
    assert any("could not say of 2 replies" in message for message in listener.said)


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


def test_whatever_a_judge_dies_of_leaves_the_reply_unjudged_and_is_said(llama, tokenizer, tmp_path):
    path, listener = tmp_path / "frail.py", Listener()
    path.write_text("def judge(request, reply): return {'fine': True}[request]")

    suites = [Suite("mixed", "safety", "refusal", PromptSet.of(["fine", "other"]))]
    (outcome,) = evaluate(
        llama, tokenizer, suites, {"vanilla": None}, listener, shelf=Shelf(), max_new_tokens=3, judge=f"{path}:judge"
    )
    assert outcome.marks["vanilla"]["refusal"] == (True, None)
    assert "It failed 1 times, first so: KeyError: 'other'" in listener.said


@pytest.mark.parametrize(
    ("text", "message"),
    [("def judge(:", "cannot be read as Python"), ("class judge:\n def __init__(s, a): 0", "defaults")],
)
def test_judges_that_cannot_be_made_are_refused(tmp_path, text, message):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=message):
        read_judge(f"{path}:judge")


def test_a_judge_of_harm_is_asked_of_malicious_requests_only(llama, tokenizer, tmp_path, monkeypatch):
    """What is safe counts as refused there; of a harmless request every answer is safe, and none of them refuses."""
    path = tmp_path / "harm.py"
    path.write_text("class Harm:\n    harm = True\n    def __call__(self, request, reply): return True")
    answer = {"vanilla": [Reply((1, 2), "Sure, here is what you do.")] * 2}
    monkeypatch.setattr("alphasteer.evaluation.evaluating.compare_replies", lambda *_, **__: answer)
    suites = [
        Suite("bad", "safety", "refusal", PromptSet.of(["steal"])),
        Suite("fine", "over-refusal", "refusal", PromptSet.of(["kill a process"])),
    ]
    bad, fine = evaluate(
        llama, tokenizer, suites, {"vanilla": None}, LogReporter(), shelf=Shelf(), judge=f"{path}:Harm"
    )
    assert bad.marks["vanilla"]["refusal"] == (True,)
    assert fine.marks["vanilla"]["refusal"] == (False,)


def test_equal_replies_are_asked_about_once_whatever_else_is_compared(own, tmp_path):
    judge, journal = read_judge(f"{own}:Own"), Journal(tmp_path / "verdicts.jsonl")
    assert verdicts(judge, [("even 0", "x"), ("even 2", "y")], journal) == (True, True)
    asked = type(judge).asked
    assert verdicts(judge, [("even 2", "y"), ("even 4", "z"), ("even 4", "z")], journal) == (True, True, True)
    assert type(judge).asked == asked + 1


def test_what_nobody_judged_has_no_figure_at_all(llama, tokenizer, own):
    suites = [Suite("unjudged", "safety", "refusal", PromptSet.of(["odd 1", "odd 3"]))]
    outcomes = evaluate(
        llama, tokenizer, suites, {"vanilla": None}, LogReporter(), shelf=Shelf(), max_new_tokens=3, judge=f"{own}:Own"
    )
    found = results(outcomes, model="tiny", steering=None)
    assert "refusal" not in found["suites"]["unjudged"]["metrics"]["vanilla"]
    assert found["averages"]["vanilla"]["dsr"] is None
    assert "| unjudged | 2 | refused | – |" in markdown_table(found)


def test_a_model_that_says_nothing_neither_refuses_nor_makes_sense(llama, tokenizer, monkeypatch):
    monkeypatch.setattr(llama.generation_config, "eos_token_id", list(range(llama.config.vocab_size)))
    suites = [Suite("bad", "safety", "refusal", PromptSet.of(["steal", "burn"]))]
    (outcome,) = evaluate(llama, tokenizer, suites, {"vanilla": None}, LogReporter(), shelf=Shelf(), max_new_tokens=4)
    assert all(len(reply.tokens) == 1 for reply in outcome.replies["vanilla"])
    assert (outcome.share("vanilla", "refusal"), outcome.share("vanilla", "coherent")) == (0, 0)


@pytest.mark.parametrize("spec", ["phrases", "hf:some/classifier", "mine"])
def test_what_cannot_prefer_is_refused_before_anything_is_replied_to(spec):
    with pytest.raises(EvaluationError, match="names nothing to call"):
        check_evaluation([], preference_judge=spec)


def test_a_judge_that_counts_its_tokens_oddly_still_judges():
    class Judge:
        tokens = ()

        def __call__(self, request, reply):
            self.tokens = [reply]
            return True

    assert verdicts(Judge(), [("How?", "No.")], Journal(None)) == (True,)
