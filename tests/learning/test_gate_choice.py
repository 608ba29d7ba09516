"""How gates are compared: every pair of a benign and a malicious source counts equally."""

import pytest
import torch

from alphasteer.learning import FitSettings
from alphasteer.learning.gate_choice import (
    Activations,
    Examined,
    best_by_layer,
    calibrated,
    combine_layers,
    fit_candidates,
)

LAYERS = (2, 3, 5)


def activations(count, shift, seed):
    """Malicious prompts differ from benign ones along one axis, in another place at every layer."""
    generator = torch.Generator().manual_seed(seed)

    def draw():
        streams = {n: torch.randn(count, 12, generator=generator) + 1 for n in LAYERS}
        for n, stream in streams.items():
            stream[:, n] += shift
        return streams

    return Activations(draw(), draw())


@pytest.fixture(scope="module")
def examined():
    return Examined(
        {"many": activations(300, 0.0, 0), "few": activations(20, 1.0, 1)},
        {"direct": activations(60, 3.0, 2), "jailbreak": activations(40, 2.0, 3)},
    )


@pytest.fixture(scope="module")
def singles(examined):
    return fit_candidates(examined, LAYERS, FitSettings())


def test_auc_is_the_chance_that_the_malicious_one_of_a_pair_scores_higher_averaged_over_sources(singles):
    for candidate in singles[:3]:
        shares = [
            float((high[:, None] > low[None, :]).double().mean())
            for low in candidate.benign.values()
            for high in candidate.malicious.values()
        ]
        assert candidate.auc == pytest.approx(sum(shares) / 4, abs=1e-6)


def test_gates_are_chosen_on_the_fits_own_prompts_and_calibrated_on_the_others(examined, singles):
    moved = {
        name: Activations(source.fit, {n: rows + 5 for n, rows in source.held_out.items()})
        for name, source in examined.benign.items()
    }
    swapped = Examined(moved, examined.malicious)
    others = fit_candidates(swapped, LAYERS, FitSettings())
    assert [c.fits for c in others] == [c.fits for c in singles]
    best = combine_layers(singles)[0]
    one, other = (calibrated(best, which, FitSettings()) for which in (examined, swapped))
    assert one.threshold != other.threshold
    assert one.n == 320


def test_the_best_of_each_layer_comes_best_first(singles):
    best = best_by_layer(singles)
    assert sorted(c.layer for c in best) == list(LAYERS)
    assert [c.partial_auc for c in best] == sorted((c.partial_auc for c in best), reverse=True)
    assert all(c.partial_auc <= b.partial_auc for b in best for c in singles if c.layer == b.layer)


def test_layers_that_know_different_things_read_better_together(singles):
    combined = combine_layers(singles)
    assert combined[0].partial_auc > best_by_layer(singles)[0].partial_auc
    by_layer = {c.layer: c.w[c.layer] for c in best_by_layer(singles)}
    for candidate in combined:
        for layer, w in candidate.w.items():
            torch.testing.assert_close(w * len(candidate.w), by_layer[layer])


def test_given_weights_are_the_only_ones_tried(examined):
    assert {fit[1] for c in fit_candidates(examined, LAYERS, FitSettings(mu=3.0)) for fit in c.fits} == {3.0}
    hard = fit_candidates(examined, LAYERS, FitSettings(null_space="hard"))
    assert {fit[1] for c in hard for fit in c.fits} == {None}
