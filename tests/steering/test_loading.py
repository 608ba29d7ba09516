"""A model is taken for the one that a steering was fitted on where its gates read what they read then."""

import pytest
import torch
from conftest import hand_made, tiny_model, tiny_tokenizer

from alphasteer.activations import with_self_test
from alphasteer.errors import SteeringError
from alphasteer.models import fingerprint, load_model
from alphasteer.prompts import ChatTemplate
from alphasteer.steering import Steering, load_steered


@pytest.fixture
def fitted(tmp_path):
    """A model's folder, and that of a steering with a self-test."""
    tiny_model("Llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    model, tokenizer = load_model(str(tmp_path / "model"))
    made = hand_made(model, ChatTemplate(tokenizer).reply_start, threshold=0.0, ceiling=1.0)
    steering = Steering(made.pushes, made.reply_start, fitted_on=fingerprint(model, tokenizer))
    with_self_test(model, tokenizer, steering).save_pretrained(tmp_path / "steering")
    return model, tmp_path / "steering"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_model_itself_is_taken_in_every_precision(fitted, dtype):
    steering, model, _ = load_steered(str(fitted[1]), dtype=dtype)
    assert str(model.dtype) == f"torch.{dtype}"
    assert "self_test" in steering.record


def test_a_merged_adapter_is_told_though_norms_are_as_they_were(fitted, tmp_path):
    model, folder = fitted
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.add_(0.3 * torch.randn(32, 2) @ torch.randn(2, 64))
    model.save_pretrained(tmp_path / "merged")
    tiny_tokenizer().save_pretrained(tmp_path / "merged")
    with pytest.raises(SteeringError, match=r"A gate of .* reads .* of its test prompt where"):
        load_steered(str(folder), model=str(tmp_path / "merged"))
    load_steered(str(folder), model=str(tmp_path / "merged"), tested=False)
