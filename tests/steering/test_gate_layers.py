"""A gate that reads several layers: its score is the sum, decided at the highest."""

import pytest
import torch
from conftest import tiny_model

from alphasteer.errors import SteeringError
from alphasteer.steering import Gate, Push, Steering
from alphasteer.steering.formula import gate_score

IDS = torch.tensor([[20, 21, 5, 6, 7]])


def test_the_score_is_the_sum_over_the_layers_read_before_anything_is_pushed():
    model = tiny_model("Llama")
    torch.manual_seed(1)
    w = {0: torch.randn(32), 2: torch.randn(32)}
    r = {2: torch.randn(32), 3: torch.randn(32)}
    with torch.inference_mode():
        hidden = model(IDS, output_hidden_states=True).hidden_states
    expected = hidden[0][0, -1] @ w[0] + hidden[2][0, -1] @ w[2]
    with Steering((Push(Gate(w), r),), (5, 6, 7)).attach(model) as attached, torch.inference_mode():
        model(IDS)
        (reading,) = attached.last_gates
        assert reading.layer == 2
        assert float(reading.scores) == pytest.approx(float(expected), rel=1e-4)
        model(IDS)
        assert float(attached.last_gates[0].scores) == pytest.approx(float(expected), rel=1e-4), (
            "scores must not pile up"
        )


def test_of_several_read_outs_the_largest_sum_decides():
    """Each wins at some of the reply starts; the second does not read the first layer."""
    model = tiny_model("Llama")
    ids = torch.tensor([[20, 21, 5, 6, 7], [33, 9, 5, 6, 7], [40, 40, 5, 6, 7], [2, 3, 5, 6, 7]])
    with torch.inference_mode():
        hidden = model(ids, output_hidden_states=True).hidden_states
    apart = torch.linalg.svd(hidden[2][:, -1] - hidden[2][:, -1].mean(0)).Vh[0]  # where the reply starts differ most
    w = {0: torch.stack([torch.ones(32), torch.zeros(32)]), 2: torch.stack([apart, -apart])}
    centre = float((hidden[2][:, -1] @ apart).median() * 2 + hidden[0][0, -1].sum())
    w[0][0] -= centre * hidden[0][0, -1] / hidden[0][0, -1].square().sum()  # both read alike in the middle
    one = hidden[0][:, -1] @ w[0][0] + hidden[2][:, -1] @ w[2][0]
    other = hidden[2][:, -1] @ w[2][1]
    assert {bool(wins) for wins in one > other} == {True, False}
    score = torch.maximum(one, other)
    low, high = float(score.min()) - 0.01, float(score.max()) + 0.01
    with Steering((Push(Gate(w, low, high), {3: apart}),), (5, 6, 7)).attach(model) as attached, torch.inference_mode():
        model(ids)
    (reading,) = attached.last_gates
    torch.testing.assert_close(reading.scores, score, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reading.values, (score - low) / (high - low), rtol=1e-3, atol=1e-3)


def test_several_gates_in_one_score_the_mean_of_what_each_alone_would():
    model, draw = tiny_model("Llama"), torch.Generator().manual_seed(0)
    w = {layer: torch.randn(3, 2, 32, generator=draw) for layer in (0, 2)}
    r = {3: torch.zeros(32)}
    gates = [Gate({layer: rows[n] for layer, rows in w.items()}, -50.0, 50.0) for n in range(3)]
    alone = Steering(tuple(Push(gate, r) for gate in gates), (5, 6, 7))
    together = Steering((Push(Gate(w, -50.0, 50.0), r),), (5, 6, 7))
    ids, scores = torch.tensor([[20, 21, 5, 6, 7], [33, 9, 5, 6, 7], [2, 3, 5, 6, 7]]), []
    for steering in (alone, together):
        with steering.attach(model) as attached, torch.inference_mode():
            model(ids)
        scores.append(torch.stack([reading.scores for reading in attached.last_gates]))
    each, (mean,) = scores
    assert len({int(each[:, row].argmax()) for row in range(3)}) > 1, "not one gate alone decides"
    torch.testing.assert_close(mean, each.mean(0), rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        streams = dict(enumerate(stream[:, -1] for stream in model(ids, output_hidden_states=True).hidden_states))
    torch.testing.assert_close(gate_score(streams, w), mean, rtol=1e-4, atol=1e-5)


def test_a_layer_below_the_highest_read_cannot_be_pushed():
    with pytest.raises(SteeringError, match="cannot push layer 1 below"):
        Push(Gate({0: torch.ones(4), 2: torch.ones(4)}), {1: torch.ones(4)})
    with pytest.raises(SteeringError, match="at least one layer to read"):
        Gate({})
    with pytest.raises(SteeringError, match="one shape"):
        Gate({0: torch.ones(4), 1: torch.ones(2, 4)})
    with pytest.raises(SteeringError, match="vectors of one length"):
        Push(Gate({0: torch.ones(2, 3)}), {1: torch.ones(4)})
