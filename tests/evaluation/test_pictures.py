"""The demo's pictures, from a steering and its record."""

from dataclasses import replace

import pytest
import torch
from conftest import hand_made

from alphasteer.evaluation.pictures import draw_figures
from alphasteer.prompts import ChatTemplate, PromptSet
from alphasteer.reporting import LogReporter
from alphasteer.resuming import Shelf


def test_both_pictures_are_drawn_and_the_model_is_left_unsteered(llama, tokenizer, tmp_path):
    plt = pytest.importorskip("matplotlib.image")
    steering = hand_made(llama, ChatTemplate(tokenizer).reply_start, threshold=0.0, ceiling=1.0)
    gates = [{"kind": "1", "layer": n, "mu": 10.0, "alpha": 0.1} for n in (1, 2, 3)]
    steering = replace(steering, record={"gates": gates})
    kinds = {name: PromptSet.of([f"{name} {n}" for n in range(6)]) for name in ("benign", "harmful")}
    fitted = {name: PromptSet.of([f"fit {name} {n}" for n in range(6)]) for name in kinds}
    ids = torch.tensor([[1, 2, 3]])
    before = llama(input_ids=ids).logits
    draw_figures(
        llama,
        tokenizer,
        steering,
        {"benign": fitted["benign"]},
        {"harmful": fitted["harmful"]},
        kinds,
        tmp_path,
        Shelf(),
        LogReporter(),
    )
    for name in ("gate.png", "activations.png"):
        picture = plt.imread(tmp_path / name)
        assert picture.shape[1] > 1000
        assert picture.std() > 0.05, "an empty sheet"
    assert torch.equal(llama(input_ids=ids).logits, before)
