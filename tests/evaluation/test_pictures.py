"""The demo's pictures, from a steering and its record."""

from dataclasses import replace

import pytest
import torch
from conftest import Listener, hand_made, let_letters_refuse

from alphasteer.evaluation.pictures import draw_figures
from alphasteer.learning import FitSettings, fit
from alphasteer.prompts import ChatTemplate, PromptSet
from alphasteer.reporting import LogReporter
from alphasteer.resuming import Shelf


def test_both_pictures_are_drawn_and_the_model_is_left_unsteered(llama, tokenizer, tmp_path):
    plt = pytest.importorskip("matplotlib.image")
    steering = hand_made(llama, ChatTemplate(tokenizer).reply_start, threshold=0.0, ceiling=1.0)
    singles = [{"layer": n, "mu": 10.0, "alpha": 0.1} for n in (1, 2, 3)]
    steering = replace(steering, record={"gates": [{"single_layers": singles}]})
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


def test_what_the_fit_has_read_is_not_read_again(llama, tokenizer, tmp_path, monkeypatch):
    """Reading it anew for the pictures took a tenth of the demo's time."""
    let_letters_refuse(monkeypatch, "learning.contrast")
    benign, harmful, more, worse = (
        PromptSet.of([f"{word} {n}" for n in range(24)], word) for word in ("bread", "STEAL", "rain", "BURN")
    )
    settings = FitSettings(starter=False, contexts=False, benign_budget=0.2, source_budget=0.2, steps=2, trials=0,
                           windows=0, probes=6, replies=24, reply_tokens=4)  # fmt: skip
    steering = fit(llama, tokenizer, benign, harmful, settings=settings, benign_validation=more,
                   harmful_validation=worse, work=tmp_path)  # fmt: skip
    assert steering.prompt_end is not None
    told = Listener()
    sides = {"bread": benign}, {"STEAL": harmful}
    draw_figures(llama, tokenizer, steering, *sides, {"benign": more}, tmp_path, Shelf(tmp_path), told)
    assert "Reading test benign" in told.tracked
    assert not {"Reading bread", "Reading STEAL"} & set(told.tracked)
