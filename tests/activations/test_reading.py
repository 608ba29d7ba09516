"""Reading the residual stream, against a plain forward with all hidden states."""

import pytest
import torch
from conftest import tiny_model

from alphasteer.activations import Moments, read_residual_stream
from alphasteer.errors import LearningError
from alphasteer.models import find_decoder
from alphasteer.reporting import LogReporter

PREFIX = [3, 4, 5, 6, 7, 8]
SEQUENCES = [[*PREFIX, *range(20, 20 + n), 9, 10] for n in (1, 12, 3, 30, 7, 2)]


def read(model, layers, **kwargs):
    return read_residual_stream(model, find_decoder(model), SEQUENCES, layers, LogReporter(), **kwargs)


def test_it_is_the_layers_input_at_the_last_token(any_model):
    activations = read(any_model, [1, 3])
    with torch.inference_mode():
        for row, sequence in enumerate(SEQUENCES):
            # hidden_states[l] is the input of layer l: the embedding's output comes first
            hidden = any_model(input_ids=torch.tensor([sequence]), output_hidden_states=True).hidden_states
            for layer in (1, 3):
                torch.testing.assert_close(activations[layer][row], hidden[layer][0, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("budget", [1, 60, 100_000])
def test_batches_do_not_matter(llama, budget):
    one, other = read(llama, [2])[2], read(llama, [2], token_budget=budget)[2]
    assert (one - other).norm() <= 1e-6 * one.norm()


def test_layers_above_the_highest_do_not_run():
    model = tiny_model("Llama")
    ran = []
    model.model.layers[3].register_forward_hook(lambda *_: ran.append(3))
    model.lm_head.register_forward_hook(lambda *_: ran.append("head"))
    read(model, [1, 2])
    assert ran == []


def test_the_shared_beginning_runs_once():
    model = tiny_model("Llama")
    seen = []
    model.model.embed_tokens.register_forward_pre_hook(lambda _, args: seen.append(args[0].numel()))
    read(model, [1], token_budget=10_000)
    assert seen[0] == len(PREFIX) + 1  # token 20 begins every rest
    assert sum(seen) < sum(map(len, SEQUENCES)) + len(PREFIX) + len(SEQUENCES) * 30


def test_what_stands_in_a_chat_runs_once_for_all_that_stand_in_it():
    model, seen = tiny_model("Llama"), []
    heads = [[3, 4] * 30, [5, 6, 7] * 25, [8]]
    sequences = [[*heads[n % 2 if n < 40 else 2], 20 + n, *range(90, 90 + n % 7)] for n in range(46)]
    handle = model.model.embed_tokens.register_forward_pre_hook(lambda _, args: seen.append(args[0].numel()))
    found = read_residual_stream(model, find_decoder(model), sequences, [2], LogReporter())[2]
    handle.remove()
    assert sum(seen) < sum(map(len, heads)) + 46 * 8 < sum(map(len, sequences)) / 5
    with torch.inference_mode():
        for row, sequence in enumerate(sequences):
            hidden = model(input_ids=torch.tensor([sequence]), output_hidden_states=True).hidden_states
            torch.testing.assert_close(found[row], hidden[2][0, -1], atol=1e-4, rtol=1e-4)


def test_one_prompt_and_equal_prompts(llama):
    decoder = find_decoder(llama)
    one = read_residual_stream(llama, decoder, SEQUENCES[:1], [1], LogReporter())[1]
    twice = read_residual_stream(llama, decoder, SEQUENCES[:1] * 2, [1], LogReporter())[1]
    torch.testing.assert_close(twice, one.expand(2, -1), atol=1e-5, rtol=1e-5)


def test_reading_leaves_the_model_as_it_was(llama):
    def hooks():  # transformers keeps its own for output_hidden_states, once it was asked for
        return [[*m._forward_pre_hooks, *m._forward_hooks] for m in llama.modules()]

    before, kept = {name: p.detach().clone() for name, p in llama.named_parameters()}, hooks()
    read(llama, [1])
    assert hooks() == kept
    assert all(torch.equal(before[name], p) for name, p in llama.named_parameters())


def test_moments_are_exact_and_merge():
    torch.manual_seed(0)
    h = torch.randn(100, 6)
    parts = Moments.of(h[:30]) + Moments.of(h[30:31]) + Moments.of(h[31:])
    exact = h.double()
    torch.testing.assert_close(parts.second, sum(torch.outer(x, x) for x in exact) / 100)
    torch.testing.assert_close(parts.mean, exact.mean(0))
    assert parts.count == 100


def test_moments_of_nothing_or_infinity_or_two_widths_are_refused():
    for bad in (torch.empty(0, 3), torch.ones(3), torch.tensor([[1.0, torch.inf]])):
        with pytest.raises(LearningError):
            Moments.of(bad)
    with pytest.raises(LearningError, match="width"):
        Moments.of(torch.ones(2, 3)) + Moments.of(torch.ones(2, 4))
