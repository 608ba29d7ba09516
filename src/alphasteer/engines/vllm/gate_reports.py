"""What the gates read where a reply starts, on its way from the worker to the client and to Prometheus.

The worker hands scores to the scheduler with the step's tokens, the scheduler hands them to the front end with the
reply's first token, in the one field of vLLM's outputs that reaches its OpenAI replies, ``kv_transfer_params``. The
front end keeps them until the reply ends, for it alone sees stop strings.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from alphasteer.engines.protocol import GateReport, report_of
from alphasteer.engines.vllm.requests import strength_of, wants_gates
from alphasteer.engines.vllm.settings import KEY, ServingConfig
from alphasteer.steering import Gate, Steering
from alphasteer.steering.formula import gate_value

READ, TOLD = "_alphasteer_read", "_alphasteer_told"
"""Attributes: of a worker's output and of a scheduler's request, the scores; of a front end's request, its report."""
ASKED = "asked"


def with_scores(output: Any, taken: tuple[list[str], torch.Tensor] | None) -> Any:
    """A worker's output of one step, with what the gates read in it: requests, and scores of shape (requests, pushes).

    An asynchronous output is filled later, and so may the scores be: whoever gets its tokens gets them.
    """
    if taken is not None and output is not None:
        setattr(getattr(output, "model_runner_output", output), READ, taken)
    return output


def keep_scores(requests: Mapping[str, Any], output: Any) -> None:
    """Remember, with the scheduler's requests, what a step's gates read: in pieces, a prompt ends in a later step."""
    names, scores = getattr(output, READ, ((), torch.empty(0)))
    for name, read in zip(names, scores.tolist(), strict=True):
        if name in requests:
            setattr(requests[name], READ, read)


def add_reports(requests: Mapping[str, Any], outputs: Any, steering: Steering, config: ServingConfig) -> None:
    """Give the first output of every reply its report.

    Args:
        requests: the scheduler's, those that end now among them.
        outputs: vLLM's EngineCoreOutputs of one step.
    """
    for output in (output for group in outputs for output in group.outputs):
        request = requests.get(output.request_id)
        scores = getattr(request, READ, None)
        if request is not None and scores is not None:
            delattr(request, READ)
            told = _report(steering, scores, request.sampling_params, config)
            output.kv_transfer_params = {**(output.kv_transfer_params or {}), KEY: told}


def _report(steering: Steering, scores: Sequence[float], params: Any, config: ServingConfig) -> dict[str, Any]:
    """What is told of one reply: the strength it was steered with, and each gate's layer, score and opening."""
    gates = tuple(_gate(push.gate, score) for push, score in zip(steering.pushes, scores, strict=True))
    return {**report_of(strength_of(params, config), gates), ASKED: wants_gates(params)}


def _gate(gate: Gate, score: float) -> GateReport:
    return GateReport(gate.layer, score, float(gate_value(torch.tensor(score), gate.threshold, gate.ceiling)))


def hand_over(states: Mapping[str, Any], outputs: Any) -> None:
    """In the front end: count every report for Prometheus, and put it on the outputs of clients who asked for it.

    Args:
        states: the front end's requests.
        outputs: vLLM's EngineCoreOutputs of one step; of each reply at least the last reaches its client.
    """
    for output in outputs:
        state, given = states.get(output.request_id), output.kv_transfer_params or {}
        if KEY in given:
            told = given[KEY]
            given = {key: value for key, value in given.items() if key != KEY}
            if not hasattr(state, TOLD):  # a reply that was preempted starts, and is told, anew
                _metrics().count((gate["layer"], gate["score"], gate["opened"]) for gate in told["gates"])
            if state is not None:
                setattr(state, TOLD, told)
            output.kv_transfer_params = given or None
        told = getattr(state, TOLD, None)
        if told is not None and told[ASKED]:
            output.kv_transfer_params = {**given, KEY: {key: value for key, value in told.items() if key != ASKED}}


@functools.cache
def _metrics() -> Any:
    """In Prometheus' own registry, of which a process has one: vLLM's ``/metrics`` shows what is in it."""
    from prometheus_client import REGISTRY

    from alphasteer.engines.gate_metrics import GateMetrics

    return GateMetrics(REGISTRY)
