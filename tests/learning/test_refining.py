"""Refined directions: the surprise they descend on, and what they leave alone."""

import pytest
import torch
from conftest import hand_made, tiny_model

from alphasteer.learning.refining import refine
from alphasteer.prompts import ChatTemplate, Prompt
from alphasteer.replies import PrefilledPrompts
from alphasteer.reporting import LogReporter
from alphasteer.steering import Gate, Push, Steering

TEXTS = ["Hi", "Tell me a story about a goat", "2+2", "x" * 60, "Why?"]
REPLIES = [[40, 41, 42], [43], [44, 45, 46, 47, 48], [49, 50], [51, 52, 53, 54]]
REPORT = LogReporter()


@pytest.fixture
def model():
    return tiny_model("Llama")


@pytest.fixture
def template(tokenizer):
    return ChatTemplate(tokenizer)


@pytest.fixture
def sequences(template):
    return template.render_all([Prompt.of(text) for text in TEXTS])


@pytest.fixture
def prompts(model, tokenizer, template, sequences):
    return PrefilledPrompts(model, tokenizer, sequences, template.reply_start, REPORT, rows=2)


def always_open(template):
    """A builder of steerings whose gate is open whatever it reads."""
    gate = Gate({1: torch.zeros(32)}, -2.0, -1.0)
    return lambda directions: Steering((Push(gate, directions),), template.reply_start)


def start():
    generator = torch.Generator().manual_seed(3)
    return {layer: torch.randn(32, generator=generator) for layer in (1, 2)}


def run(model, prompts, template, **changes):
    return refine(model, prompts, REPLIES, start(), always_open(template), REPORT, **{"steps": 6, "seed": 0, **changes})


def total_surprise(prompts):
    with torch.no_grad():
        return sum(
            float(prompts.surprise(n, [REPLIES[i] for i in rows])) * sum(len(REPLIES[i]) for i in rows)
            for n, rows in enumerate(prompts.batches)
        )


@pytest.mark.parametrize("steered", [False, True])
def test_surprise_is_the_negative_log_likelihood_of_the_replies_a_token(model, prompts, template, sequences, steered):
    """Written out prompt by prompt, without cache or padding."""
    attached = hand_made(model, template.reply_start).attach(model, strength=1.0 if steered else 0.0)
    with attached, torch.no_grad():
        for number, rows in enumerate(prompts.batches):
            logs = []
            for i in rows:
                whole = torch.tensor([[*sequences[i], *REPLIES[i]]])
                odds = model(input_ids=whole).logits[0].log_softmax(-1)
                first = len(sequences[i])
                logs += [odds[first + k - 1, token] for k, token in enumerate(REPLIES[i])]
            expected = -torch.stack(logs).mean()
            torch.testing.assert_close(
                prompts.surprise(number, [REPLIES[i] for i in rows]), expected, atol=1e-4, rtol=1e-4
            )


def test_its_gradient_is_that_of_finite_differences(model, prompts, template):
    build, directions = always_open(template), start()
    replies = [REPLIES[i] for i in prompts.batches[0]]

    def surprise(vectors):
        with build(vectors).attach(model):
            return prompts.surprise(0, replies)

    directions[2].requires_grad_()
    surprise(directions).backward()
    along = torch.nn.functional.normalize(directions[2].grad, dim=0)
    step = 0.05
    with torch.no_grad():
        ahead, behind = (float(surprise({**directions, 2: directions[2] + s * along})) for s in (step, -step))
    assert (ahead - behind) / (2 * step) == pytest.approx(float(directions[2].grad @ along), rel=0.02)


def test_refined_directions_surprise_less_and_the_model_is_untouched(model, prompts, template):
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    model.model.embed_tokens.weight.requires_grad_(False)
    refined = run(model, prompts, template, steps=100)
    assert {n: r.shape for n, r in refined.items()} == {n: r.shape for n, r in start().items()}
    with always_open(template)(start()).attach(model):
        before = total_surprise(prompts)
    with always_open(template)(refined).attach(model):
        after = total_surprise(prompts)
    assert after < 0.9 * before
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name])
        assert parameter.grad is None
        assert parameter.requires_grad == (name != "model.embed_tokens.weight"), "as it was before"


def test_the_seed_decides(model, prompts, template):
    one, again, other = (run(model, prompts, template, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert not all(torch.equal(one[n], other[n]) for n in one)


def test_an_interrupted_refinement_leaves_the_model_as_it_was(model, prompts, template):
    class Stopping(LogReporter):
        def track(self, items, description, total):
            yield 0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refine(model, prompts, REPLIES, start(), always_open(template), Stopping(), steps=6, seed=0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(model(input_ids=ids).logits, tiny_model("Llama")(input_ids=ids).logits)
