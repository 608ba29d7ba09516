"""The one formula, in the one place: every engine that steers calls these functions."""

from collections.abc import Mapping

import torch
from torch import Tensor


def read_out(hidden: Tensor, w: Tensor, normalised: bool = False) -> Tensor:
    """w.h in float32, of h divided by its root mean square if ``normalised``; of shape (..., k).

    Args:
        hidden: residual streams, of shape (..., d).
        w: the gate's k read-outs at this layer, of shape (k, d), or (d,) for one; or those of several gates in one, of
            shape (g, k, d), which give (..., g k).
    """
    h = hidden.float()
    reads = h @ w.reshape(-1, w.shape[-1]).T
    return reads / h.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12) if normalised else reads


def loudest(reads: Tensor, gates: int = 1) -> Tensor:
    """A gate's score: the largest of its read-outs, each summed over the layers; (..., k) to (...).

    Of several gates in one, which have as many read-outs each, the mean of each one's largest; (..., g k) to (...).
    """
    return reads.reshape(*reads.shape[:-1], gates, reads.shape[-1] // gates).amax(-1).mean(-1)


def gates_in(w: Tensor) -> int:
    """How many gates there are in one: g, where w is of shape (g, k, d)."""
    return w.shape[0] if w.ndim == 3 else 1


def gate_score(streams: Mapping[int, Tensor], w: Mapping[int, Tensor], normalised: bool = False) -> Tensor:
    """What a gate reads: the sum of w.h over its layers, of several read-outs the ``loudest``; of shape (n,).

    Args:
        streams: residual streams by layer, each of shape (n, d): at the reply start; or (n, 2 d): beside it their
            means over the prompt, which a gate of width d does not read.
        w: the gate's read-outs by layer, each of shape (g, k, d) or (g, k, 2 d), without the g for one gate, and
            without the k for one read-out.
    """
    reads = [read_out(streams[layer][..., : rows.shape[-1]], rows, normalised) for layer, rows in w.items()]
    return loudest(torch.stack(reads).sum(0), gates_in(next(iter(w.values()))))


def gate_value(score: Tensor, threshold: float | None, ceiling: float | None) -> Tensor:
    """How far a gate opens.

    ``clip((score - threshold) / (ceiling - threshold), 0, 1)``; without a threshold the score itself, which is
    the paper's form (Eq. 4: Delta h = r w^T h).

    Args:
        score: what the gate reads (see ``gate_score``), of any shape.
        threshold: scores up to here give exactly zero.
        ceiling: scores from here on give one.
    """
    if threshold is None or ceiling is None:
        return score
    return ((score - threshold) / (ceiling - threshold)).clamp(0.0, 1.0)


def push(hidden: Tensor, gate: Tensor, direction: Tensor, strength: float) -> Tensor:
    """``h' = h + strength * g * r``, reckoned in float32 and returned in h's precision.

    Where the gate is zero, h' is h bit for bit.

    Args:
        hidden: residual streams, of shape (..., d).
        gate: gate values, of shape (...).
        direction: the refusal direction r at this layer, of shape (d,).
        strength: how far to push; positive is towards refusal.
    """
    return (hidden.float() + (strength * gate)[..., None] * direction).to(hidden.dtype)
