"""Reading what the figures show: activations of held-out prompts, before and after steering."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alphasteer.activations import Moments
from alphasteer.evaluation.figures import gate_figure, pca_figure
from alphasteer.learning import gate_from_moments
from alphasteer.learning.readings import Readings
from alphasteer.models import find_decoder, weights_digest
from alphasteer.prompts import ChatTemplate, PromptSet
from alphasteer.reporting import Reporter
from alphasteer.resuming import Shelf
from alphasteer.steering import Steering

PROMPTS_A_CLASS = 40


def draw_figures(
    model: Any,
    tokenizer: Any,
    steering: Steering,
    benign: Mapping[str, PromptSet],
    malicious: Mapping[str, PromptSet],
    test: Mapping[str, PromptSet],
    folder: Path,
    shelf: Shelf,
    report: Reporter,
) -> None:
    """Write ``gate.png`` and ``activations.png``.

    Args:
        model: the model that the steering was fitted on, unsteered.
        tokenizer: its tokenizer.
        steering: a fitted steering; its record says how the gate was fitted.
        benign: what it was fitted on, by source; read from the shelf if the fit kept it there.
        malicious: likewise.
        test: prompts by class that nothing was fitted on.
        folder: where the pictures go.
        shelf: where activations are kept.
        report: follows the reading.
    """
    decoder, template = find_decoder(model), ChatTemplate(tokenizer)
    identity = [weights_digest(model)]
    fitted = Readings(model, decoder, template, range(len(decoder) // 4, len(decoder)), shelf, report, identity)
    sample = {name: prompts.limit(PROMPTS_A_CLASS) for name, prompts in test.items()}
    before = {name: fitted.of(prompts.prompts, f"test {name}") for name, prompts in sample.items()}
    weights = {fit["layer"]: fit for fit in steering.record["gates"]}
    sides = [{name: fitted.of(prompts.prompts, name) for name, prompts in side.items()} for side in (benign, malicious)]
    gates = {}
    for layer in weights:
        low, high = (Moments.pooled(by_layer[layer] for by_layer in side.values()) for side in sides)
        w = gate_from_moments(low, high, mu=weights[layer]["mu"], alpha=weights[layer]["alpha"])
        gates[layer] = (w / (w @ high.mean)).float()
    gate_figure(folder / "gate.png", steering, before, gates)
    last = len(decoder) - 1
    with steering.attach(model):
        steered = Readings(model, decoder, template, [last], Shelf(), report)
        after = {name: steered.of(p.prompts, f"test {name}, steered")[last] for name, p in sample.items()}
    pca_figure(folder / "activations.png", {name: a[last] for name, a in before.items()}, after, last)
