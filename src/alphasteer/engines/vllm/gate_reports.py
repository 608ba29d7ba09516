"""What the gates read where a reply starts, on its way from the worker to the client and to Prometheus.

The worker hands scores to the scheduler with the step's tokens; the scheduler keeps them until the reply ends, and
gives them to the front end in the one field of vLLM's outputs that reaches its OpenAI replies, ``kv_transfer_params``.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch

from alphasteer.engines.vllm.requests import strength_of, wants_gates
from alphasteer.engines.vllm.settings import KEY, ServingConfig
from alphasteer.steering import Steering
from alphasteer.steering.formula import gate_value

SCORES = "_alphasteer_scores"
"""The attribute of a worker's output, and of a scheduler's request, that holds scores."""
ASKED = "asked"


def with_scores(output: Any, taken: tuple[list[str], torch.Tensor] | None) -> Any:
    """A worker's output of one step, with what the gates read in it: requests, and scores of shape (requests, pushes).

    An asynchronous output is filled later, and so may the scores be: whoever gets its tokens gets them.
    """
    if taken is not None and output is not None:
        setattr(getattr(output, "model_runner_output", output), SCORES, taken)
    return output


def report(steering: Steering, scores: Sequence[float], params: Any, config: ServingConfig) -> dict[str, Any]:
    """What is told of one reply: the strength it was steered with, and each gate's layer, score and opening."""
    gates = []
    for push, score in zip(steering.pushes, scores, strict=True):
        opened = float(gate_value(torch.tensor(score), push.gate.threshold, push.gate.ceiling))
        gates.append({"layer": push.gate.layer, "score": score, "opened": opened})
    return {"strength": strength_of(params, config), "gates": gates, ASKED: wants_gates(params)}


def keep_scores(requests: dict[str, Any], output: Any) -> None:
    """Remember, with the scheduler's requests, what a step's gates read."""
    names, scores = getattr(output, SCORES, ((), torch.empty(0)))
    for name, read in zip(names, scores.tolist(), strict=True):
        if name in requests:
            setattr(requests[name], SCORES, read)


def add_reports(requests: dict[str, Any], outputs: Any, steering: Steering, config: ServingConfig) -> None:
    """Give every reply that ends its report.

    Args:
        requests: the scheduler's, those that end now among them.
        outputs: vLLM's EngineCoreOutputs of one step.
    """
    for output in (output for group in outputs for output in group.outputs if output.finish_reason is not None):
        request = requests.get(output.request_id)
        scores = getattr(request, SCORES, None)
        if request is not None and scores is not None:
            told = report(steering, scores, request.sampling_params, config)
            output.kv_transfer_params = {**(output.kv_transfer_params or {}), KEY: told}


def count_reports(outputs: Any) -> None:
    """In the front end: count every report for Prometheus, and take it out where the client has not asked for it."""
    for output in outputs:
        told = (output.kv_transfer_params or {}).get(KEY)
        if told is None:
            continue
        _metrics().count((gate["layer"], gate["score"], gate["opened"]) for gate in told["gates"])
        rest = {key: value for key, value in output.kv_transfer_params.items() if key != KEY}
        if told[ASKED]:
            rest[KEY] = {key: value for key, value in told.items() if key != ASKED}
        output.kv_transfer_params = rest or None


@functools.cache
def _metrics() -> Any:
    """In Prometheus' own registry, of which a process has one: vLLM's ``/metrics`` shows what is in it."""
    from prometheus_client import REGISTRY

    from alphasteer.engines.gate_metrics import GateMetrics

    return GateMetrics(REGISTRY)
