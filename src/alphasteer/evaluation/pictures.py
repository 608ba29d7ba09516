"""Reading what the figures show: activations of held-out prompts, before and after steering."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from alphasteer.evaluation.figures import gate_figure, pca_figure
from alphasteer.learning import gate_from_moments
from alphasteer.learning.crossing import LayerFit
from alphasteer.learning.readings import ByLayer, Readings
from alphasteer.models import find_decoder, loaded_digest
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
    fits = {fit["layer"]: fit for fit in steering.record["gates"][0]["single_layers"]}
    layers = range(min(fits), max(fits) + 1)
    width, end = decoder.hidden_size, steering.prompt_end
    fitted = Readings(model, decoder, template, layers, shelf, report, [loaded_digest(model)], prompt_end=end)
    sides = [{name: fitted.of(prompts.prompts, name) for name, prompts in side.items()} for side in (benign, malicious)]
    gates = {}
    for layer, how in fits.items():
        low, high = (_reply_starts(layer, side, width) for side in sides)
        solve = partial(gate_from_moments, mu=how["mu"], alpha=how["alpha"])
        gates[layer] = LayerFit(low, high, weigh=True).read_out(solve)
    sample = {name: prompts.limit(PROMPTS_A_CLASS) for name, prompts in test.items()}
    last = len(decoder) - 1

    def seen(layers: Sequence[int]) -> dict[str, ByLayer]:
        readings = Readings(model, decoder, template, layers, Shelf(), report, prompt_end=end)
        return {name: readings.of(prompts.prompts, f"test {name}") for name, prompts in sample.items()}

    before = seen(sorted({*layers, last}))
    gate_figure(folder / "gate.png", steering, before, gates)
    with steering.attach(model):
        after = seen([last])
    unsteered, steered = _reply_starts(last, before, width), _reply_starts(last, after, width)
    pca_figure(folder / "activations.png", unsteered, steered, last)


def _reply_starts(layer: int, streams: Mapping[str, ByLayer], width: int) -> dict[str, Tensor]:
    return {name: by_layer[layer][:, :width] for name, by_layer in streams.items()}
