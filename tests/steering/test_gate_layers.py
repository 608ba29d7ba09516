"""A gate that reads several layers: its score is the sum, decided at the highest."""

import pytest
import torch
from conftest import tiny_model

from alphasteer.errors import SteeringError
from alphasteer.steering import Gate, Push, Steering

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


def test_a_layer_below_the_highest_read_cannot_be_pushed():
    with pytest.raises(SteeringError, match="cannot push layer 1 below"):
        Push(Gate({0: torch.ones(4), 2: torch.ones(4)}), {1: torch.ones(4)})
    with pytest.raises(SteeringError, match="at least one layer to read"):
        Gate({})
