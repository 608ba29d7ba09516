"""How gates are made: a read-out a kind, compared over every pair of a benign and a malicious source."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alphasteer.learning import FitSettings
from alphasteer.learning.gate_choice import (
    ChosenGate,
    GateCandidate,
    best_by_layer,
    calibrated,
    combine_layers,
    fit_candidates,
    join,
    mean_gate,
    mean_read_out,
    unseen_budget,
)
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
    best = join(combine_layers(singles)[:1], 0.01, examined.malicious)
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
    assert {fit[1] for c in fit_candidates(Kind(examined), LAYERS, FitSettings(mu=3.0))[0] for fit in c.fits} == {3.0}
    (hard,) = fit_candidates(Kind(examined), LAYERS, FitSettings(null_space="hard"))
    assert {fit[1] for c in hard for fit in c.fits} == {None}


def two_sorts(count, seed):
    """Malicious prompts of two sorts that lie far apart, both in one source; benign ones around zero."""
    generator = torch.Generator().manual_seed(seed)
    malicious = torch.randn(2 * count, 12, generator=generator)
    malicious[:count, 0] += 12
    malicious[count:, 1] += 12
    benign = torch.randn(400, 12, generator=generator)
    held_out = torch.randn(400, 12, generator=generator)

    def one(fit, held_out):
        return Activations({3: fit}, {3: held_out})

    return Examined({"b": one(benign, held_out)}, {"m": one(malicious, malicious)})


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
    return GateCandidate(w, ((layer, 3.0, 0.1),), {"b": torch.tensor(low)}, {"m": torch.tensor(high)}, 0.5, 0.5)


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


def test_each_read_out_opens_the_joint_gate_on_its_share_of_the_fits_benign_prompts():
    examined = two_sorts(60, 0)
    read_outs = [
        combine_layers(fit_candidates(kind, [3], FitSettings())[0])[0] for kind in by_kind(examined, FitSettings())
    ]
    gate = join(read_outs, 0.05, examined.malicious)  # any share opens it on all of these: the most even one is taken
    assert gate.w[3].shape == (2, 12)
    for row, read_out in zip(gate.w[3], read_outs, strict=True):
        scores = read_out.benign["b"].sort().values
        unit = max(0.05, float(scores[math.ceil(401 * 0.975) - 1]))  # the conformal rank of half of 5 %, written out
        torch.testing.assert_close(row * unit, read_out.w[3])


def test_the_budget_goes_where_it_opens_the_gate_on_most_held_out_malicious_prompts():
    """Of 10 %, the first read-out needs 7 to open on one prompt and the second 1.5 to open on the other: 8 and 2 do."""

    def read_out(axis):
        w = {1: torch.eye(2)[axis]}
        benign = {"b": torch.linspace(0, 1, 1001)}
        return GateCandidate(w, ((1, 3.0, 0.1),), benign, {"m": torch.ones(2)}, 0.5, 0.5)

    held_out = torch.tensor([[0.93, 0.0], [0.0, 0.985]])
    malicious = {"m": Activations({1: held_out}, {1: held_out})}
    gate = join([read_out(0), read_out(1)], 0.1, malicious)
    units = 1 / gate.w[1].diagonal()
    torch.testing.assert_close(units, torch.tensor([0.92, 0.98]), atol=2e-3, rtol=0)
    assert bool(((held_out @ gate.w[1].T).amax(1) > 1).all())


@given(budget=st.floats(0.001, 0.5), n=st.integers(1, 20_000))
def test_few_benign_prompts_loosen_the_budget_for_kinds_not_seen_up_to_a_tenth(budget, n):
    """Of 5,000 prompts or more it is the budget itself; of fewer, as many times as much as there are too few."""
    loose = unseen_budget(budget, n)
    assert loose == pytest.approx(max(budget, min(0.1, budget * max(1, 5_000 / n))))
    assert unseen_budget(budget, n + 1) <= loose
    assert unseen_budget(0.01, 1_000) == pytest.approx(0.05)


def test_a_read_out_has_zeros_where_it_does_not_read():
    def read_out(layer):
        scores = {"s": torch.linspace(0, 1, 50)}
        return GateCandidate({layer: torch.ones(4)}, ((layer, 3.0, 0.1),), scores, scores, 0.5, 0.5)

    gate = join([read_out(1), read_out(2)], 0.2, {})
    assert gate.layer == 2
    assert not gate.w[1][1].any()
    assert not gate.w[2][0].any()
    assert bool((gate.w[1][0] == gate.w[2][1]).all())


def test_held_out_prompts_of_known_kinds_do_not_lower_the_threshold():
    """However quiet they are: where kinds not seen open the gate too often stands in the gate's units."""
    examined = two_sorts(60, 0)
    quiet = {"b": Activations(examined.benign["b"].fit, {3: examined.benign["b"].held_out[3] - 50})}
    settings = FitSettings()
    read_outs = [combine_layers(fit_candidates(kind, [3], settings)[0])[0] for kind in by_kind(examined, settings)]
    gate = join(read_outs, settings.source_budget, examined.malicious)
    assert calibrated(gate, Examined(quiet, examined.malicious), settings).threshold == 1.0
    loud = {"b": Activations(examined.benign["b"].fit, {3: examined.benign["b"].held_out[3] + 50})}
    assert calibrated(gate, Examined(loud, examined.malicious), settings).threshold > 1.0


def test_one_kind_opens_the_gate_without_the_other():
    examined = two_sorts(60, 1)
    settings = FitSettings()
    read_outs = [combine_layers(fit_candidates(kind, [3], settings)[0])[0] for kind in by_kind(examined, settings)]
    calibration = calibrated(join(read_outs, settings.source_budget, examined.malicious), examined, settings)
    assert calibration.opened["m"] == 1.0
    assert calibration.observed <= settings.benign_budget


@given(counts=st.lists(st.integers(1, 3), min_size=1, max_size=3), seed=st.integers(0, 999))
def test_the_mean_of_gates_scores_the_mean_of_their_scores(counts, seed):
    """Whatever read-out of each is the largest, and whatever layers each reads."""
    draw = torch.Generator().manual_seed(seed)
    part = GateCandidate({}, (), {}, {}, 0.0, 0.0)
    gates = [
        ChosenGate({n: torch.randn(count, 4, generator=draw) for n in (1, 2 + place)}, (part,) * count)
        for place, count in enumerate(counts)
    ]
    rows = {n: torch.randn(7, 4, generator=draw) for n in range(6)}

    def score(gate):
        return sum(rows[n] @ w.T for n, w in gate.w.items()).amax(1)

    mean = mean_gate(gates)
    torch.testing.assert_close(score(mean), torch.stack([score(gate) for gate in gates]).mean(0))
    assert len(mean.read_outs) == sum(counts)
