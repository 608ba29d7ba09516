"""The two pictures that explain a steering: what the gate sees, and where the push takes the activations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphasteer.steering import Steering
from alphasteer.steering.formula import gate_score

# Okabe and Ito's palette: told apart in every common form of colour blindness.
COLOURS = {"benign": "#0072B2", "borderline": "#56B4E9", "harmful": "#D55E00", "jailbreak": "#CC79A7"}
LINES = {"alone": "-", "half in chats": "--", "other half in chats": ":"}
MARKERS = {"reply start": "o", "prompt end": "^"}


def gate_figure(
    path: Path, steering: Steering, activations: Mapping[str, Mapping[int, Tensor]], gates: Mapping[int, Tensor]
) -> None:
    """Left: the gate's scores by class, with threshold and ceiling. Right: scores of gates of all layers by class.

    Args:
        path: where to write the PNG.
        steering: its first push's gate is drawn.
        activations: by class and layer, of shape (n, d), of prompts that nothing was fitted on; with the means over
            the prompt's end beside them, of shape (n, 2 d), where the gate reads these.
        gates: a read-out w of shape (d,) by layer, for the right-hand panel.
    """
    figure, (left, right) = _axes((12, 4.2))
    gate = steering.pushes[0].gate
    scores = {name: gate_score(by_layer, gate.w, gate.normalised).numpy() for name, by_layer in activations.items()}
    everything = np.concatenate(list(scores.values()))
    lowest, highest = map(float, np.quantile(everything, [0.002, 0.998]))
    bins = np.linspace(lowest, highest, 45)
    for name, values in scores.items():
        left.hist(values, bins=bins, alpha=0.6, label=f"{name} ({len(values)})", color=_colour(name), density=True)
    if gate.threshold is not None and gate.ceiling is not None:
        left.axvline(gate.threshold, color="black", linestyle="--", linewidth=1, label="threshold: below, no push")
        left.axvline(gate.ceiling, color="black", linestyle=":", linewidth=1, label="ceiling: above, full push")
    left.set(title="The gate on held-out prompts", xlabel="gate score w·h", ylabel="density")
    left.legend(fontsize=8)
    layers = sorted(gates)
    for name, by_layer in activations.items():
        values = np.stack([(by_layer[n][:, : len(gates[n])] @ gates[n]).numpy() for n in layers])
        low, middle, high = np.quantile(values, [0.1, 0.5, 0.9], axis=1)
        right.plot(layers, middle, color=_colour(name), label=name)
        right.fill_between(layers, low, high, color=_colour(name), alpha=0.15)
    for layer in gate.layers:
        right.axvline(layer, color="black", linewidth=1, alpha=0.3)
    right.set(
        title="One layer's gates: median and 10-90 %",
        xlabel="layer (lines: those that the gate reads)",
        ylabel="gate score w·h",
    )
    right.legend(fontsize=8)
    _save(figure, path)


def pca_figure(path: Path, before: Mapping[str, Tensor], after: Mapping[str, Tensor], layer: int) -> None:
    """Reply-start activations on their first two principal components, before and after steering.

    Args:
        path: where to write the PNG.
        before: by class, activations of shape (n, d) of the unsteered model; the components are theirs.
        after: by class, the same prompts' activations of the steered model.
        layer: which layer's, for the title.
    """
    whole = torch.cat(list(before.values()))
    mean = whole.mean(0)
    components = torch.linalg.svd(whole - mean, full_matrices=False).Vh[:2].T
    figure, axes = _axes((12, 4.8), share=True)
    for axis, points, title in zip(axes, (before, after), ("unsteered", "steered"), strict=True):
        for name, activations in points.items():
            x, y = ((activations - mean) @ components).T.numpy()
            axis.scatter(x, y, s=14, alpha=0.7, label=name, color=_colour(name))
        axis.set(title=f"Reply starts at layer {layer}, {title}", xlabel="first component", ylabel="second component")
        axis.legend(fontsize=8)
    _save(figure, path)


def selection_figure(path: Path, record: Mapping[str, Any]) -> None:
    """Left: how well each layer's gate separates. Right: the pushes that were tried, and those that none beats at both.

    Args:
        path: where to write the PNG.
        record: of a fit; see ``alphasteer inspect``.
    """
    figure, (left, right) = _axes((12, 4.2))
    for gate in record["gates"]:
        singles, taken = gate["single_layers"], gate["read_out"]
        layers, areas = [single["layer"] for single in singles], [single["partial_auc"] for single in singles]
        read = taken["layers"] if taken else []
        look = {
            "color": f"C{gate['kind'] - 1}",
            "linestyle": LINES[gate["prompts"]],
            "marker": MARKERS[gate["place"]],
            "markersize": 5,
        }
        name = f"kind {gate['kind']}, {gate['prompts']}, {gate['place']}"
        left.plot(layers, areas, markerfacecolor="none", label=name, **look)
        left.plot(layers, areas, markevery=[layer in read for layer in layers], **{**look, "linestyle": "none"})
    left.set(
        title="One layer's gates on unseen kinds (filled: taken)",
        xlabel="layer",
        ylabel="area under the ROC curve up to 5 %",
    )
    left.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.17))
    pushes = record["selection"]["searched"]
    points = np.array([[push["divergence"] or 0.0, push["surprise"]] for push in pushes])
    if len(points):
        shown = right.scatter(*points.T, c=[push["strength"] for push in pushes], s=22, cmap="viridis")
        figure.colorbar(shown, ax=right, label="strength")
        front = [p for p in points if not any((q <= p).all() and (q < p).any() for q in points)]
        right.plot(*np.array(sorted(front, key=lambda p: p[0])).T, color="black", linewidth=1, label="front")
        right.legend(fontsize=8)
    right.set(
        title="Pushes searched",
        xlabel="divergence of altered benign prompts, nats",
        ylabel="surprise at own refusals, nats a token",
    )
    _save(figure, path)


def _axes(size: tuple[float, float], share: bool = False) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure  # not pyplot, which keeps global state and wants a display

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(1, 2, sharex=share, sharey=share)


def _colour(name: str) -> str:
    return next((colour for key, colour in COLOURS.items() if key in name), "#009E73")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=130)
