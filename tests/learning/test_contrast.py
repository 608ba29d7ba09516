"""Which requests stand for refusal: the model's own replies, and what happens where it shows none."""

import pytest
import torch

from alphasteer.errors import LearningError
from alphasteer.learning.contrast import INSTRUCTION, PLENTY, observe_refusals
from alphasteer.learning.directions import refusal_direction
from alphasteer.prompts import Prompt
from alphasteer.replies import Reply
from alphasteer.reporting import LogReporter

NO, YES, NOISE = (
    Reply((1, 2), "I'm sorry, but I can't help with that."),
    Reply((7, 2), "Sure, here is what you do."),
    Reply((9,), "no no no no no"),
)
HARMFUL = [Prompt.of(f"bad {i}") for i in range(100)]
BENIGN = [Prompt.of(f"good {i}") for i in range(100)]


def observed(rule, harmful=HARMFUL):
    return observe_refusals(harmful, BENIGN, lambda prompts, _: [rule(p.text) for p in prompts], LogReporter())


def observe(rule):
    return observed(rule).contrasts


def test_every_request_gets_a_refusal_its_own_before_one_it_was_told_before_one_of_another():
    told = INSTRUCTION.strip()

    def rule(text):
        number = int(text.split()[1])
        if number < 10:
            return Reply((1, number), f"I'm sorry, but I can't help with number {number}.")
        return Reply((3, number), f"I cannot help with {number}.") if told in text and number < 50 else YES

    lessons = observed(rule).lessons(HARMFUL)
    assert [prompt for prompt, _ in lessons] == HARMFUL
    assert [reply.tokens for _, reply in lessons[:10]] == [(1, n) for n in range(10)]
    assert [reply.tokens for _, reply in lessons[10:50]] == [(3, n) for n in range(10, 50)]
    drawn = [reply.tokens for _, reply in lessons[50:]]
    assert set(drawn) <= {reply.tokens for _, reply in lessons[:50]}
    assert len(set(drawn)) > 10
    assert observed(rule).lessons(HARMFUL) == lessons != observed(rule).lessons(HARMFUL, seed=1)
    strange = Prompt.of("never asked before")
    ((request, refusal),) = observed(rule).lessons([strange])
    assert request == strange
    assert refusal in [reply for _, reply in lessons[:50]]


def test_the_shortest_requests_are_told_to_be_refused_wherever_they_stand():
    told, long = INSTRUCTION.strip(), [Prompt.of(f"a long story, and then bad {i}") for i in range(100)]
    contrasts = observed(lambda text: NO if told in text else YES, harmful=[*long, *HARMFUL]).contrasts
    assert all(prompt.text.startswith("bad") for prompt in contrasts[0].refused)


def test_own_replies_where_there_are_plenty():
    (contrast,) = observe(lambda text: NOISE if text.endswith("9") else NO if int(text[-1]) < 7 else YES)
    assert contrast.rule == "own replies"
    assert (len(contrast.refused), len(contrast.complied)) == (70, 20), "a reply that is no language stands for nothing"


def test_instructed_refusals_beside_a_few_own_ones_and_alone_where_there_are_none():
    told = INSTRUCTION.strip()
    few = observe(lambda text: NO if text.endswith("0") or told in text else YES)
    assert [(c.rule, len(c.refused)) for c in few] == [("own replies", 10), ("instructed refusals", 3 * PLENTY)]
    assert all(INSTRUCTION in p.text for p in few[1].refused)
    assert not any(INSTRUCTION in p.text for p in few[1].complied)
    never = observe(lambda text: NO if told in text else YES)
    assert [c.rule for c in never] == ["instructed refusals"]


def test_benign_compliance_where_it_refuses_every_malicious_request():
    (contrast,) = observe(lambda text: NO if text.startswith("bad") else YES)
    assert (contrast.rule, len(contrast.refused), len(contrast.complied)) == ("benign compliance", 100, 100)
    assert all(p.text.startswith("good") for p in contrast.complied)


def test_a_model_that_never_or_always_refuses_whatever_one_does_teaches_nothing():
    with pytest.raises(LearningError, match="even when told to"):
        observe(lambda text: YES)
    with pytest.raises(LearningError, match="complies with 0 of 100"):
        observe(lambda text: NO)
    with pytest.raises(LearningError, match="0 answer and 5 refuse; the others are no language"):
        observe(lambda text: NO if text in {f"bad {n}" for n in range(5)} else NOISE)


def test_the_direction_is_a_difference_of_means():
    refused, complied = torch.randn(5, 3), torch.randn(9, 3)
    expected = refused.double().sum(0) / 5 - complied.double().sum(0) / 9
    torch.testing.assert_close(refusal_direction(refused, complied), expected)
    with pytest.raises(LearningError):
        refusal_direction(refused[:0], complied)
    with pytest.raises(LearningError):
        refusal_direction(refused, complied * torch.inf)
