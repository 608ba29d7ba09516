"""Which arms are compared: names, checks before anything is fitted, sweeps."""

import pytest
import torch
from conftest import hand_made

from alphasteer.baselines import BASELINES
from alphasteer.errors import EvaluationError, SteeringError
from alphasteer.evaluation import Suite, check_arms, evaluate, read_arms, results
from alphasteer.evaluation.report import render_report
from alphasteer.prompts import ChatTemplate, PromptSet
from alphasteer.reporting import LogReporter
from alphasteer.resuming import Shelf


def never():
    raise AssertionError("nothing is to be fitted")


def test_all_is_spelt_out_and_may_stand_beside_others():
    assert check_arms(["all", "mine=somewhere"]) == ["steered", *BASELINES, "mine=somewhere"]


@pytest.mark.parametrize(
    "names",
    [
        ["nonesuch"],
        ["vanilla=x"],
        ["cast=x"],
        ["=x"],
        ["mine="],
        ["all=x"],
        ["steered", "all"],
        ["a=x", "a=y"],
        ["steered xl=x"],
    ],
)
def test_wrong_reserved_and_doubled_names_are_refused(names):
    with pytest.raises(EvaluationError):
        check_arms(names)


def test_another_artefact_is_checked_before_anything_is_fitted(llama, tmp_path):
    steering = hand_made(llama, (5,))
    steering.save_pretrained(tmp_path / "other")

    def refuse(other, source):
        assert other.digest == steering.digest
        raise SteeringError(f"{source} differs")

    with pytest.raises(SteeringError, match=r"mine=.* differs"):
        read_arms(["cast", f"mine={tmp_path / 'other'}"], steering, never, tmp_path, check=refuse)
    arms = read_arms(["steered", f"mine={tmp_path / 'other'}"], steering, never, tmp_path, (0.5, 2.0))
    assert list(arms) == ["vanilla", "steered x0.5", "steered x2", "mine x0.5", "mine x2"]
    assert arms["mine x2"].pushes[0].strength == 2.0


def test_the_unsteered_model_alone_can_be_measured(llama, tokenizer):
    suites = [Suite("bad", "safety", "refusal", PromptSet.of(["steal", "burn"]))]
    arms = {"vanilla": None}
    outcomes = evaluate(llama, tokenizer, suites, arms, LogReporter(), shelf=Shelf(), max_new_tokens=3)
    found = results(outcomes, model="tiny", steering=None)
    assert "<html" in render_report(found, outcomes, arms)


def test_a_push_beyond_all_numbers_leaves_no_holes_in_the_report(llama, tokenizer):
    suites = [Suite("bad", "safety", "refusal", PromptSet.of([f"steal {n}" for n in range(4)]))]
    wild = hand_made(llama, ChatTemplate(tokenizer).reply_start, strength=1e38)
    arms = {"vanilla": None, "wild": wild}
    outcomes = evaluate(llama, tokenizer, suites, arms, LogReporter(), shelf=Shelf(), max_new_tokens=3)
    assert not bool(torch.isfinite(outcomes[0].starts["wild"].divergence).all()), "this test's push must overflow"
    page = render_report(results(outcomes, model="tiny", steering=None), outcomes, arms)
    assert "NaN" not in page.split('id="data">')[1].split("</script>")[0]
    assert "Infinity" not in page.split('id="data">')[1].split("</script>")[0]
