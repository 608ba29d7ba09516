"""The gate that decides: the mean of gates from several views, and what opens it."""

import math

import pytest
import torch
from conftest import two_sorts
from hypothesis import given
from hypothesis import strategies as st

from alphasteer.learning import FitSettings
from alphasteer.learning.gate_choice import GateCandidate, combine_layers, fit_candidates
from alphasteer.learning.joint_gate import beyond, calibrated, join, unseen_budget
from alphasteer.learning.kinds import by_kind
from alphasteer.learning.readings import Activations, Examined
from alphasteer.steering.formula import gate_score


def read_out(w, benign, layer=1):
    """A read-out of which only its vector and what benign prompts score by its likes matter."""
    return GateCandidate({layer: w}, ((layer, 3.0, 0.1),), benign, {"m": torch.ones(2)}, 0.5)


def read_outs_of(examined):
    return [combine_layers(fit_candidates(kind, [3], FitSettings())[0])[0] for kind in by_kind(examined, FitSettings())]


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    budget=st.floats(0.001, 0.9),
    seed=st.integers(0, 999),
)
def test_no_more_than_the_budget_is_beyond_and_any_lower_score_would_be_too_low(sizes, budget, seed):
    """Shares written out: a source of n prompts weighs sqrt(n), each of them 1 / sqrt(n)."""
    draw = torch.Generator().manual_seed(seed)
    scores = {str(n): torch.randint(0, 20, (size,), generator=draw).float() for n, size in enumerate(sizes)}

    def share(score):
        above = sum(int((of > score).sum()) / math.sqrt(len(of)) for of in scores.values())
        return above / sum(math.sqrt(len(of)) for of in scores.values())

    threshold = beyond(scores, budget)
    assert share(threshold) <= budget + 1e-9
    lower = [float(s) for of in scores.values() for s in of if s < threshold]
    assert not lower or share(max(lower)) > budget - 1e-9


def test_each_read_out_opens_its_gate_on_an_equal_share_of_the_fits_benign_prompts():
    examined = two_sorts(60, 0)
    read_outs = read_outs_of(examined)
    gate = join([read_outs], 0.05)
    assert gate.w[3].shape == (1, 2, 12)
    # Half of 5 % of 400 prompts are 10, which may be beyond: the unit of each is the eleventh score from above.
    units = [max(0.05, float(r.benign["b"].sort(descending=True).values[10])) for r in read_outs]
    scores = torch.stack([r.benign["b"] / unit for r, unit in zip(read_outs, units, strict=True)]).amax(0)
    whole = max(0.05, float(scores.sort(descending=True).values[20]))  # and of the larger of both, 20
    for row, unit, r in zip(gate.w[3][0], units, read_outs, strict=True):
        torch.testing.assert_close(row * unit * whole, r.w[3])


def test_the_mean_of_views_has_a_unit_of_its_own():
    """Benign prompts that open one view's gate seldom open the other's: their mean is then beyond 1 too seldom."""
    first, second = torch.zeros(100), torch.zeros(100)
    first[:20], second[20:40] = torch.linspace(1, 2, 20), torch.linspace(1, 2, 20)
    gate = join([[read_out(torch.eye(2)[n], {"b": s})] for n, s in enumerate((first, second))], 0.1)
    unit = float(first.sort(descending=True).values[10])
    mean = (first + second) / 2 / unit
    whole = float(mean.sort(descending=True).values[10])
    assert whole < 1
    torch.testing.assert_close(gate.w[1], torch.full((1, 1, 2), 1 / (2 * unit * whole)))
    assert len(gate.read_outs) == 2


@given(budget=st.floats(0.001, 0.5), n=st.integers(1, 20_000))
def test_few_benign_prompts_loosen_the_budget_for_kinds_not_seen_up_to_a_tenth(budget, n):
    """Of 5,000 prompts or more it is the budget itself; of fewer, as many times as much as there are too few."""
    loose = unseen_budget(budget, n)
    assert loose == pytest.approx(max(budget, min(0.1, budget * max(1, 5_000 / n))))
    assert unseen_budget(budget, n + 1) <= loose
    assert unseen_budget(0.01, 1_000) == pytest.approx(0.05)


def test_a_read_out_has_zeros_where_it_does_not_read():
    scores = {"s": torch.linspace(0, 1, 50)}
    gate = join([[read_out(torch.ones(4), scores, layer) for layer in (1, 2)]], 0.2)
    assert gate.layer == 2
    assert not gate.w[1][0, 1].any()
    assert not gate.w[2][0, 0].any()
    assert bool((gate.w[1][0, 0] == gate.w[2][0, 1]).all())


def shifted(examined, by):
    """The same, held-out benign prompts moved along every axis."""
    moved = {name: Activations(a.fit, {3: a.held_out[3] + by}) for name, a in examined.benign.items()}
    return Examined(moved, examined.malicious)


def test_held_out_prompts_of_known_kinds_do_not_lower_the_threshold():
    """However quiet they are: where kinds not seen open the gate too often stands in the gate's units."""
    examined, settings = two_sorts(60, 0), FitSettings()
    gate = join([read_outs_of(examined)], settings.source_budget)
    assert calibrated(gate, [shifted(examined, -50)], settings).threshold == 1.0
    assert calibrated(gate, [shifted(examined, 50)], settings).threshold > 1.0


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_budgets_hold_however_prompts_stand_and_the_first_way_is_told_of(place):
    examined, settings = two_sorts(60, 0), FitSettings()
    gate = join([read_outs_of(examined)], settings.source_budget)
    placings = [shifted(examined, -50)] * 3
    placings[place] = shifted(examined, 50)
    found = calibrated(gate, placings, settings)
    assert found.threshold == calibrated(gate, [placings[place]], settings).threshold > 1.0
    assert (found.observed > 0) == (place == 0)


def test_one_kind_opens_the_gate_without_the_other():
    examined, settings = two_sorts(60, 1), FitSettings()
    gate = join([read_outs_of(examined)], settings.source_budget)
    calibration = calibrated(gate, [examined], settings)
    assert calibration.opened["m"] == 1.0
    assert calibration.observed <= settings.benign_budget


@given(counts=st.lists(st.integers(1, 2), min_size=1, max_size=3), seed=st.integers(0, 999))
def test_the_joint_gates_score_is_the_mean_of_each_views_largest_read_out(counts, seed):
    """Whatever read-out of each is the largest, how many each has, and whatever layers each reads."""
    draw = torch.Generator().manual_seed(seed)
    benign = {"b": torch.full((9,), 0.5)}  # every read-out's unit is 0.5, their mean's 1
    views = [
        [
            GateCandidate({n: torch.randn(4, generator=draw) for n in (1, 2 + place)}, (), benign, {}, 0.0)
            for _ in range(count)
        ]
        for place, count in enumerate(counts)
    ]
    rows = {n: torch.randn(7, 4, generator=draw) for n in range(6)}
    each = [
        torch.stack([sum(rows[n] @ w for n, w in read_out.w.items()) for read_out in view]).amax(0) for view in views
    ]
    gate = join(views, 0.01)
    torch.testing.assert_close(gate_score(rows, gate.w), torch.stack(each).mean(0) / 0.5)
    assert len(gate.read_outs) == sum(counts)
