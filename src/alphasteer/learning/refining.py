"""Refined directions: from what distinguishes refusal to what brings it about, by gradient through the frozen model.

The contrast's direction is where requests that the model refuses differ from those with which it complies; pushed
along it, a model may begin like a refusal and then go on with the request. Starting there, the directions descend
on the surprise at the model's own refusals (cf. Wollschlaeger et al. 2025, arXiv 2502.17420, refusal direction
optimization; docs/method.md).
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from alphasteer.replies import PrefilledPrompts
from alphasteer.reporting import Reporter
from alphasteer.steering import Steering

STEP = 0.2
"""Step size of the first steps, as a share of the direction's root mean square; it falls to a tenth of that."""
ROWS = 16
"""Requests in a batch: one step learns from one batch."""
TOKENS = 16
"""So much of a refusal is learned from: its opening decides."""


def refine(
    model: Any,
    prompts: PrefilledPrompts,
    refusals: Sequence[Sequence[int]],
    directions: Mapping[int, Tensor],
    build: Callable[[Mapping[int, Tensor]], Steering],
    report: Reporter,
    *,
    steps: int,
    seed: int,
) -> dict[int, Tensor]:
    """Directions under which the model is less surprised at its own refusals; its weights stay as they are.

    Args:
        prompts: malicious requests whose gate opens.
        refusals: a refusal for each of them, as token ids.
        directions: where to start, by layer, each of shape (d,).
        build: the steering that pushes along given directions.
        steps: how many steps; each takes one batch of requests, in an order drawn by ``seed``.

    Returns:
        The directions by layer, float32, of shape (d,).
    """
    refined = {n: r.to(model.device, torch.float32).clone().requires_grad_() for n, r in directions.items()}
    sizes = {n: STEP * float(r.detach().square().mean().sqrt()) for n, r in refined.items()}
    optimizer = torch.optim.Adam([{"params": [refined[n]], "lr": sizes[n]} for n in refined])
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
    batches = _batches(prompts.batches, seed)
    with _frozen(model), torch.enable_grad():
        for _ in report.track(((step, 1) for step in range(steps)), "Refining directions", steps):
            number, rows = next(batches)
            with build(refined).attach(model):
                surprise = prompts.surprise(number, [refusals[i][:TOKENS] for i in rows])
            optimizer.zero_grad()
            surprise.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return {n: r.detach().cpu() for n, r in refined.items()}


def _batches(batches: Sequence[list[int]], seed: int) -> Iterator[tuple[int, list[int]]]:
    """Every batch once in a drawn order, and again in another."""
    draw = random.Random(seed)
    while True:
        yield from draw.sample(list(enumerate(batches)), len(batches))


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """No gradients for the weights: they cost time and memory, and nothing may train them."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
