"""Cross-fitting, written out: every prompt is scored by a gate that has not seen it."""

from functools import partial

import pytest
import torch

from alphasteer.learning.crossing import FOLDS, LayerFit
from alphasteer.learning.gates import gate_from_moments

WIDTH = 6


def sides():
    generator = torch.Generator().manual_seed(0)
    benign = {
        "large": torch.randn(90, WIDTH, generator=generator),
        "small": torch.randn(23, WIDTH, generator=generator),
    }
    return benign, {"m": torch.randn(40, WIDTH, generator=generator) + 1}


def solve(benign, malicious):
    return gate_from_moments(benign, malicious, mu=2.0, alpha=0.01)


def by_hand(benign, malicious, weigh):
    """The soft gate from activations, each source with the weight n ** -0.5 a prompt, scaled to 1 on malicious ones."""

    def weighted(side):
        weights = {name: len(whole) ** -0.5 if weigh else 1.0 for name, (rows, whole) in side.items()}
        total = sum(weights[name] * len(rows) for name, (rows, _) in side.items())
        second = sum(weights[name] * rows.double().T @ rows.double() for name, (rows, _) in side.items()) / total
        return second, sum(weights[name] * rows.double().sum(0) for name, (rows, _) in side.items()) / total

    (low, _), (high, mean) = weighted(benign), weighted(malicious)
    ridge = 0.01 * high.trace() / WIDTH * torch.eye(WIDTH, dtype=torch.float64)
    w = torch.linalg.solve(high + 2.0 * low + ridge, mean)
    return (w / (w @ mean)).float()


@pytest.mark.parametrize("weigh", [True, False])
def test_scores_are_those_of_gates_fitted_without_the_prompts_fold(weigh):
    benign, malicious = sides()
    (crossed,) = LayerFit(benign, malicious, weigh=weigh).fit([solve])
    whole = [{name: (rows, rows) for name, rows in side.items()} for side in (benign, malicious)]
    torch.testing.assert_close(crossed.w, by_hand(*whole, weigh), rtol=1e-4, atol=1e-6)
    for fold in range(FOLDS):
        without, within = [], {}
        for side in (benign, malicious):
            ranks = {name: rows[:, 0].argsort().argsort() for name, rows in side.items()}
            without.append({name: (rows[ranks[name] % FOLDS != fold], rows) for name, rows in side.items()})
            within |= {name: ranks[name] % FOLDS == fold for name in side}
        w = by_hand(*without, weigh)
        for name, rows in (benign | malicious).items():
            scores = (crossed.benign | crossed.malicious)[name]
            torch.testing.assert_close(scores[within[name]], rows[within[name]] @ w, rtol=1e-3, atol=1e-5)


def test_the_prompts_order_is_no_matter():
    benign, malicious = sides()
    flipped = {name: rows.flip(0) for name, rows in benign.items()}
    one, other = (LayerFit(side, malicious, weigh=True).fit([solve])[0] for side in (benign, flipped))
    torch.testing.assert_close(one.w, other.w)
    torch.testing.assert_close(one.benign["small"], other.benign["small"].flip(0))


def test_a_source_that_is_empty_or_smaller_than_the_folds_is_no_hindrance():
    benign, malicious = sides()
    (crossed,) = LayerFit(
        {**benign, "none": torch.empty(0, WIDTH), "two": torch.ones(2, WIDTH)}, malicious, weigh=True
    ).fit([solve])
    assert set(crossed.benign) == {"large", "small", "two"}
    assert bool(torch.isfinite(crossed.benign["two"]).all())


def test_several_solves_are_fitted_as_each_alone():
    benign, malicious = sides()
    fitted = LayerFit(benign, malicious, weigh=True)
    solves = [partial(gate_from_moments, mu=mu, alpha=0.01) for mu in (1.0, 30.0)]
    for solve, crossed in zip(solves, fitted.fit(solves), strict=True):
        (alone,) = fitted.fit([solve])
        assert torch.equal(crossed.w, alone.w)
        assert torch.equal(crossed.w, fitted.read_out(solve))
        assert all(torch.equal(crossed.benign[name], alone.benign[name]) for name in benign)
        assert torch.equal(crossed.malicious["m"], alone.malicious["m"])
    assert not torch.equal(*(crossed.w for crossed in fitted.fit(solves)))


def test_given_folds_are_left_out_whole():
    """Written out: what is told to be one kind is scored by a read-out that has seen none of it."""
    benign, malicious = sides()
    # Four kinds of malicious prompts, one fold without any; all of one benign source are of one kind.
    folds = {"large": torch.arange(90) % 5, "small": torch.full((23,), 2), "m": torch.arange(40) // 10}
    given = ({name: folds[name] for name in benign}, {"m": folds["m"]})
    (crossed,) = LayerFit(benign, malicious, weigh=True, folds=given).fit([solve])
    for fold in range(FOLDS):
        low, high = (
            {name: (rows[folds[name] != fold], rows) for name, rows in side.items()} for side in (benign, malicious)
        )
        w = by_hand(low, high, True)
        for name, rows in (benign | malicious).items():
            within = folds[name] == fold
            scores = (crossed.benign | crossed.malicious)[name]
            torch.testing.assert_close(scores[within], rows[within] @ w, rtol=1e-3, atol=1e-5)
