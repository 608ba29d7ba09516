"""Thresholds set anew: what is promised of them, by simulation, for one gate and for several."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alphasteer.errors import LearningError
from alphasteer.learning import fewest_prompts, largest_excess, recalibrated
from alphasteer.steering import Gate, Push, Steering
from alphasteer.steering.formula import gate_value


def steering(*bounds):
    gates = [Gate({layer: torch.ones(2)}, low, high) for layer, (low, high) in enumerate(bounds)]
    return Steering(tuple(Push(gate, {gate.layer: torch.ones(2)}) for gate in gates), (1,))


def opened(of, scores):
    """Which prompts a steering alters: a gate opens."""
    values = [gate_value(s, p.gate.threshold, p.gate.ceiling) for p, s in zip(of.pushes, scores, strict=True)]
    return torch.stack(values).amax(0) > 0


@pytest.mark.parametrize("bounds", [[(0.0, 1.0)], [(0.0, 1.0), (0.5, 3.0), (-1.0, 0.2)]])
@pytest.mark.parametrize(("n", "budget"), [(99, 0.01), (150, 0.02)])
def test_in_expectation_no_more_than_the_budget_is_altered(bounds, n, budget):
    generator, made, shares = torch.Generator().manual_seed(0), steering(*bounds), []
    mix = torch.randn(len(bounds), len(bounds), generator=generator)  # gates that read alike, more or less
    for _ in range(1000):
        seen, fresh = (mix @ torch.randn(2, len(bounds), n, generator=generator).exp()).float()
        excess = largest_excess([p.gate for p in made.pushes], list(seen))
        moved = recalibrated(made, {"all": excess}, budget, each_group=False)
        shares.append(float(opened(moved, list(fresh)).double().mean()))
    error = torch.tensor(shares).std() / math.sqrt(len(shares))
    assert sum(shares) / len(shares) <= budget + float(error)
    assert sum(shares) > 0, "a gate that never opens would keep any promise"


def test_the_budget_can_hold_for_every_group():
    generator, made = torch.Generator().manual_seed(1), steering((0.0, 1.0))
    altered = {"maths": [], "code": []}
    for _ in range(1000):
        groups = {"maths": torch.randn(300, generator=generator), "code": torch.randn(60, generator=generator) + 2}
        moved = recalibrated(made, groups, 0.05, each_group=True)
        for name, shift in (("maths", 0), ("code", 2)):
            fresh = torch.randn(100, generator=generator) + shift
            altered[name].append(float(opened(moved, [fresh]).double().mean()))
    for shares in altered.values():
        assert sum(shares) / 1000 <= 0.05 + float(torch.tensor(shares).std()) / math.sqrt(1000)
    together = recalibrated(made, groups, 0.05, each_group=False)
    assert float(opened(together, [torch.randn(2000, generator=generator) + 2]).double().mean()) > 0.1


@settings(deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=19, max_size=200), st.floats(0.05, 0.5))
def test_the_given_prompts_are_altered_as_the_record_says(values, budget):
    made, scores = steering((0.25, 0.75)), torch.tensor(values)
    excess = largest_excess([p.gate for p in made.pushes], [scores])
    moved = recalibrated(made, {"all": excess}, budget, each_group=False)
    found = float(opened(moved, [scores]).double().mean())
    assert found == pytest.approx(moved.record["calibration"]["observed"])
    assert found <= budget
    gate = moved.pushes[0].gate
    assert gate.ceiling - gate.threshold == pytest.approx(0.5)


def test_the_record_forgets_what_was_measured_at_the_former_thresholds():
    fitted = replace(steering((0.0, 1.0)), record={"validation": {"refused": 0.9}, "settings": {"seed": 3}})
    moved = recalibrated(fitted, {"all": torch.linspace(-1, 1, 120)}, 0.05, each_group=False)
    assert set(moved.record) == {"settings", "calibration"}


def test_the_excess_is_above_zero_where_a_gate_opens_and_only_there():
    made = steering((0.0, 1.0), (2.0, 2.5))
    scores = [torch.tensor([-1.0, 0.5, -2.0, 1.5]), torch.tensor([1.0, 1.0, 2.1, 9.0])]
    excess = largest_excess([p.gate for p in made.pushes], scores)
    assert excess.tolist() == pytest.approx([-1.0, 0.5, 0.2, 14.0])
    assert ((excess > 0) == opened(made, scores)).all()


@pytest.mark.parametrize(("budget", "count"), [(0.01, 99), (0.02, 49), (0.5, 1), (0.03, 33)])
def test_how_many_prompts_a_budget_wants(budget, count):
    assert fewest_prompts(budget) == count
    made, enough = steering((0.0, 1.0)), torch.zeros(count)
    recalibrated(made, {"g": enough}, budget, each_group=True)
    if count > 1:
        with pytest.raises(LearningError, match=f"give at least {count}"):
            recalibrated(made, {"g": enough[1:]}, budget, each_group=True)


def test_linear_gates_have_no_threshold():
    with pytest.raises(LearningError, match="no threshold"):
        largest_excess([Gate({0: torch.ones(2)})], [torch.zeros(3)])
