"""Before an engine serves, one prompt runs through it: its gates must read what they read where they were fitted."""

from typing import Any

import torch

from alphasteer.engines.vllm.batches import FILLER
from alphasteer.engines.vllm.settings import ServingConfig
from alphasteer.errors import SteeringError
from alphasteer.steering import Steering
from alphasteer.steering.loading import FARTHEST, agree

EXACT, COARSE = 1e-3, FARTHEST
"""How far scores may lie apart in float32 and below it, as a share of the stored one and at least of 1."""


def check_self_test(core: Any, config: ServingConfig) -> None:
    """Run the artefact's stored prompt through an engine core that serves nobody yet.

    Args:
        core: vLLM's EngineCore.

    Raises:
        SteeringError: if the artefact holds no self-test, or a gate reads something else on any rank.
    """
    expected = Steering.from_pretrained(config.folder).record.get("self_test")
    if expected is None:
        raise SteeringError(f"{config.folder} holds no self-test; run alphasteer calibrate on it, or fit it anew.")
    _run(core, expected["tokens"])
    share = EXACT if core.vllm_config.model_config.dtype == torch.float32 else COARSE
    for rank, scores in enumerate(core.model_executor.collective_rpc(last_scores)):
        for gate, (found, wanted) in enumerate(zip(scores, expected["scores"], strict=True)):
            if not agree(found, wanted, share):
                raise SteeringError(
                    f"The self-test failed: gate {gate} reads {found:.4f} on rank {rank} where {wanted:.4f} is "
                    "right; this engine does not run the model that the steering was fitted on."
                )


def last_scores(worker: Any) -> list[float]:
    """What the gates read at the last reply start of the last step that had one; called on a vLLM worker."""
    scores: list[float] = getattr(worker.model_runner.get_model(), FILLER).last_scores()
    return scores


def _run(core: Any, tokens: list[int]) -> None:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine import EngineCoreRequest

    request = EngineCoreRequest(
        request_id="alphasteer-self-test",
        prompt_token_ids=tokens,
        mm_features=None,
        sampling_params=SamplingParams(temperature=0.0, max_tokens=1),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    core.add_request(*core.preprocess_add_request(request))
    while core.scheduler.has_requests():
        core.step()
