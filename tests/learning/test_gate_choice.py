"""How read-outs are made: one a kind, compared over every pair of a benign and a malicious source."""

import pytest
import torch
from conftest import two_sorts

from alphasteer.learning import FitSettings
from alphasteer.learning.gate_choice import (
    GateCandidate,
    best_by_layer,
    combine_layers,
    fit_candidates,
    mean_read_out,
)
from alphasteer.learning.joint_gate import calibrated, join
from alphasteer.learning.kinds import DRAWS, Kind, by_kind
from alphasteer.learning.readings import Activations, Examined

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
    return fit_candidates(Kind(examined), LAYERS, FitSettings())[0]


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
    (others,) = fit_candidates(Kind(swapped), LAYERS, FitSettings())
    assert [c.fits for c in others] == [c.fits for c in singles]
    best = join([combine_layers(singles)[:1]], 0.01)
    one, other = (calibrated(best, [which], FitSettings()) for which in (examined, swapped))
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
    assert {fit[1] for c in fit_candidates(Kind(examined), LAYERS, FitSettings(mu=3.0))[0] for fit in c.fits} == {3.0}
    (hard,) = fit_candidates(Kind(examined), LAYERS, FitSettings(null_space="hard"))
    assert {fit[1] for c in hard for fit in c.fits} == {None}


def test_malicious_prompts_of_two_kinds_get_a_read_out_each():
    examined = two_sorts(60, 0)
    found = by_kind(examined, FitSettings())
    sizes = [len(kind.examined.malicious["m"].fit[3]) for kind in found]
    assert sizes == [60, 60]
    peaks = {int(kind.examined.malicious["m"].fit[3].mean(0).argmax()) for kind in found}
    assert peaks == {0, 1}
    for kind in found:
        assert len(kind.folds) == DRAWS
        for side, source in enumerate("bm"):
            drawn = [tuple(folds[side][source].tolist()) for folds in kind.folds]
            assert all(set(folds) == set(range(5)) for folds in drawn), "kinds within the kind are the folds"
            assert len(set(drawn)) == DRAWS, "every draw folds in its own way"
        assert kind.examined.benign is examined.benign
        assert len(kind.examined.malicious["m"].held_out[3]) == 120, "what is held out is not sorted"


def test_benign_prompts_of_a_kind_are_left_out_together():
    """Copies of a few prompts, hardly changed, are kinds: no read-out that scores one has seen another."""
    generator = torch.Generator().manual_seed(0)
    centres = 9 * torch.randn(30, 12, generator=generator)
    benign = (centres[:, None] + 0.01 * torch.randn(30, 20, 12, generator=generator)).flatten(0, 1)
    malicious = two_sorts(60, 0).malicious
    examined = Examined({"b": Activations({3: benign}, {3: benign})}, malicious)
    for kind in by_kind(examined, FitSettings()):
        for folds, _ in kind.folds:
            assert all(len(copies.unique()) == 1 for copies in folds["b"].reshape(30, 20))


def test_few_prompts_or_a_hard_null_space_make_one_kind():
    assert len(by_kind(two_sorts(30, 0), FitSettings())) == 1
    (hard,) = by_kind(two_sorts(60, 0), FitSettings(null_space="hard"))
    assert hard.folds == (None,)


def flat_read_out(layer, value, low, high):
    """One layer, one number: what a mean of such read-outs must be can be told at sight."""
    w = {layer: torch.full((4,), value)}
    return GateCandidate(w, ((layer, 3.0, 0.1),), {"b": torch.tensor(low)}, {"m": torch.tensor(high)}, 0.5)


def test_the_mean_of_read_outs_scores_their_mean_and_is_judged_anew():
    """Written out for three, two of them of one layer: a layer that one does not read counts as 0 there."""
    read_outs = [
        flat_read_out(1, 3.0, [0.0, 0.3], [0.9, 0.6]),
        flat_read_out(1, 6.0, [0.0, 0.0], [0.3, 0.3]),
        flat_read_out(4, 9.0, [0.3, 0.3], [0.9, 0.0]),
    ]
    mean = mean_read_out(read_outs)
    torch.testing.assert_close(mean.w[1], torch.full((4,), (3.0 + 6.0 + 0.0) / 3))
    torch.testing.assert_close(mean.w[4], torch.full((4,), (0.0 + 0.0 + 9.0) / 3))
    torch.testing.assert_close(mean.benign["b"], torch.tensor([0.1, 0.2]))
    torch.testing.assert_close(mean.malicious["m"], torch.tensor([0.7, 0.3]))
    assert mean.auc == 1.0, "the means are apart, though the third read-out's scores are not"
    assert mean.fits == ((1, 3.0, 0.1), (1, 3.0, 0.1), (4, 3.0, 0.1))
    assert mean_read_out(read_outs[:1]) is read_outs[0]


def test_a_read_out_in_another_unit_scores_as_many_times_less_and_is_judged_alike(singles):
    best = singles[0]
    other = best.over(4.0)
    torch.testing.assert_close(other.w[best.layer] * 4, best.w[best.layer])
    for side, scaled in ((best.benign, other.benign), (best.malicious, other.malicious)):
        assert side.keys() == scaled.keys()
        for name, scores in side.items():
            torch.testing.assert_close(scaled[name] * 4, scores)
    assert (other.partial_auc, other.fits) == (best.partial_auc, best.fits)


def test_a_wider_read_out_reads_its_own_columns_alone(singles):
    best = singles[0]
    wide = best.widened(2, 3).w[best.layer]
    assert wide.shape == (2 + 12 + 3,)
    assert not wide[:2].any()
    assert not wide[-3:].any()
    assert torch.equal(wide[2:-3], best.w[best.layer])
