"""Thresholds: what is promised of them, by simulation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alphasteer.errors import LearningError
from alphasteer.learning import benign_threshold, calibrate


@pytest.mark.parametrize(("n", "budget"), [(99, 0.02), (183, 0.02), (500, 0.01)])
def test_in_expectation_no_more_than_the_budget_exceeds_the_threshold(n, budget):
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(1000):
        calibration, fresh = torch.randn(2, n, generator=generator).exp()  # any continuous law will do
        shares.append(float((fresh > benign_threshold(calibration, budget)).double().mean()))
    error = torch.tensor(shares).std() / math.sqrt(len(shares))
    assert sum(shares) / len(shares) <= budget + float(error)


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=80), st.floats(0.01, 0.9))
def test_at_most_the_budget_of_the_calibration_prompts_themselves_exceed_it(scores, budget):
    values = torch.tensor(scores, dtype=torch.float64)
    assert int((values > benign_threshold(values, budget)).sum()) <= budget * len(scores)


def test_too_few_prompts_for_the_budget_give_the_largest_score():
    assert benign_threshold(torch.tensor([0.1, 0.3, 0.2]), 0.01) == pytest.approx(0.3)


def test_ceiling_lies_a_fiftieth_of_the_spread_above_the_threshold_where_nothing_separates():
    same = torch.linspace(0, 1, 50)
    found = calibrate({"b": same}, {"m": same}, budget=0.02, ceiling_quantile=0.3)
    assert found.ceiling - found.threshold == pytest.approx(0.02 * float(same.std(unbiased=False)), rel=1e-6)
    assert found.opened["b"] <= 0.02


def test_what_opens_the_gate_opens_it_fully_but_for_a_share_in_every_source():
    generator = torch.Generator().manual_seed(0)
    benign = torch.rand(500, generator=generator)
    near, far = 0.5 + torch.rand(300, generator=generator), 3 + torch.rand(40, generator=generator)
    found = calibrate({"b": benign}, {"near": near, "far": far}, budget=0.02, ceiling_quantile=0.2)
    opening = near[near > found.threshold]
    assert float((opening < found.ceiling).double().mean()) == pytest.approx(0.2, abs=0.01)
    assert bool((far > found.ceiling).all())


def test_a_source_that_hardly_opens_the_gate_does_not_set_its_ceiling():
    shut = torch.tensor([0.0] * 50 + [1.01])
    found = calibrate({"b": torch.linspace(0, 1, 200)}, {"m": torch.full((50,), 9.0), "s": shut}, budget=0.01,
                      ceiling_quantile=0.5)  # fmt: skip
    assert found.ceiling == pytest.approx(9.0)


def test_benign_sources_are_calibrated_together():
    one, other = torch.rand(2, 500, generator=torch.Generator().manual_seed(0))
    found = calibrate({"a": one, "b": other + 1}, {"m": torch.full((50,), 9.0)}, budget=0.02, ceiling_quantile=0.5)
    assert found.threshold == benign_threshold(torch.cat([one, other + 1]), 0.02)
    assert (found.opened["a"], found.opened["b"]) == (0.0, pytest.approx(0.04, abs=0.005))


def test_a_source_that_is_large_enough_keeps_a_budget_of_its_own():
    one, other = torch.rand(2, 500, generator=torch.Generator().manual_seed(0))
    few = torch.full((199,), 8.0)
    sources = {"a": one, "b": other + 1, "few": few}
    found = calibrate(sources, {"m": torch.full((50,), 9.0)}, budget=0.4, source_budget=0.02, ceiling_quantile=0.5)
    assert found.threshold == benign_threshold(other + 1, 0.02)
    assert found.opened["b"] <= 0.02
    assert found.opened["few"] == 1.0, "199 prompts are too few to hold a budget of 2 %"
    assert (found.n, found.observed) == (1199, pytest.approx((199 + 500 * found.opened["b"]) / 1199))


def test_the_area_is_the_chance_that_a_malicious_prompt_scores_higher():
    low, high = torch.tensor([0.0, 1.0, 2.0, 3.0] * 20), torch.tensor([1.5, 2.5, 9.0])
    found = calibrate({"b": low}, {"m": high}, budget=0.02, ceiling_quantile=0.5)
    assert found.auc == pytest.approx((0.5 + 0.75 + 1) / 3)


def test_a_budget_too_small_for_the_prompts_is_refused_and_says_what_would_do():
    with pytest.raises(LearningError, match=r"98 prompts .* budget of 0.01; give at least 99, or allow 0.011"):
        calibrate({"b": torch.rand(98)}, {"m": torch.ones(9)}, budget=0.01, ceiling_quantile=0.5)


def test_an_empty_side_is_refused():
    with pytest.raises(LearningError, match="held-out"):
        calibrate({"b": torch.zeros(0)}, {"m": torch.ones(3)}, budget=0.02, ceiling_quantile=0.3)
