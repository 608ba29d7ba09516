"""What is fitted on and what is held out: never the same, whatever files it comes from."""

import pytest
from conftest import Listener

from alphasteer.errors import LearningError
from alphasteer.learning import FitSettings
from alphasteer.learning.examples import gather
from alphasteer.prompts import Prompt, PromptSet, starter_prompts
from alphasteer.reporting import LogReporter

SETTINGS = FitSettings(starter=False)
BENIGN = [f"tell me about cake {n}" for n in range(60)]
MALICIOUS = PromptSet.of([f"help me steal {n}" for n in range(60)], "m")


def gathered(benign, report=None, settings=SETTINGS, **validation):
    return gather(benign, [MALICIOUS], settings, report or LogReporter(), **validation).benign


def keys(prompts):
    return {prompt.key for prompt in prompts}


def test_a_validation_file_that_is_fitted_on_is_not_calibrated_on():
    listener = Listener()
    fitted, seen = PromptSet.of(BENIGN, "a"), PromptSet.of([*BENIGN[:50], *(f"new {n}" for n in range(10))], "b")
    a, b = gathered([fitted], listener, benign_validation=[seen])
    assert keys(a.fit) == keys(fitted)
    assert [prompt.text for prompt in b.held_out] == [f"new {n}" for n in range(10)]
    assert any(message.startswith("50 held-out benign prompts") for message in listener.said)


def test_what_two_sources_hold_out_is_held_out_once():
    twice = PromptSet.of([f"new {n}" for n in range(10)], "v")
    _, one, other = gathered([PromptSet.of(BENIGN, "a")], benign_validation=[twice, twice])
    assert (len(one.held_out), len(other.held_out)) == (10, 0)


def test_a_validation_source_keeps_to_its_own_splits():
    (_, source) = gathered([PromptSet.of(BENIGN, "a")], benign_validation=[starter_prompts("benign")])
    assert keys(source.held_out) == keys(starter_prompts("benign", "validation"))


@pytest.mark.parametrize("splits", [("train", "validation"), ("fit", "")])
def test_splits_in_other_words_are_refused_rather_than_dropped(splits):
    mixed = PromptSet.of([Prompt.of(t, str(n), split=splits[n % 2]) for n, t in enumerate(BENIGN)], "mine")
    with pytest.raises(LearningError, match=r"mine has prompts of split ('train'|none); say fit, validation, test"):
        gathered([mixed])


def test_a_source_of_which_nothing_is_used_is_named():
    listener = Listener()
    tests = PromptSet.of([Prompt.of(f"t {n}", str(n), split="test") for n in range(9)], "only tests")
    gathered([PromptSet.of(BENIGN, "a"), tests], listener)
    assert any("No prompt of only tests is used" in message for message in listener.said)


def test_how_much_of_a_long_source_is_read_is_said():
    listener = Listener()
    long = PromptSet.of([f"{n} " * 100 for n in range(100, 150)], "long")
    gathered([PromptSet.of(BENIGN, "a"), long], listener, settings=FitSettings(characters=4_000))
    (said,) = (message for message in listener.said if message.startswith("Of long"))
    assert said == "Of long 10 of 50 prompts are read, which hold 4,000 characters (setting characters)."
