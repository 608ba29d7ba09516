"""Seeded requests on a CPU: vLLM 0.32 dies there of one whose prompt comes in pieces."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def undrawn(runner: Any) -> Iterator[None]:
    """While tokens are drawn: requests whose prompt is not whole yet keep their generators to themselves.

    Their draw is thrown away, and vLLM winds their generators back for it, which a CPU's cannot do. What is not drawn
    need not be wound back.

    Args:
        runner: vLLM's; the second model runner draws otherwise and knows no such mask.
    """
    mask = getattr(runner, "discard_request_mask", None)
    if mask is None or runner.device.type != "cpu":
        yield
        return
    generators = runner.input_batch.generators
    unfinished = mask.np[: runner.input_batch.num_reqs].nonzero()[0].tolist()
    held = {index: generators.pop(index) for index in unfinished if index in generators}
    try:
        yield
    finally:
        generators.update(held)
