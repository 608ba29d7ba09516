"""The model loader behind ``--load-format alphasteer``: weights as ever, then the steering, or no start at all."""

import copy
from typing import Any

from torch import nn
from vllm.config import ModelConfig, VllmConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from alphasteer.engines.vllm.batches import FILLER, StepFiller
from alphasteer.engines.vllm.layers import steer_layers
from alphasteer.engines.vllm.second_runner import SecondStepFiller
from alphasteer.engines.vllm.settings import ServingConfig, check_digest, read_config
from alphasteer.errors import SteeringError
from alphasteer.steering import Steering


class SteeredModelLoader(DefaultModelLoader):  # type: ignore[misc]
    """Loads weights as the default loader does, and steers the main model's layers before anything is compiled."""

    def __init__(self, load_config: Any) -> None:
        plain = copy.copy(load_config)
        plain.load_format = "auto"
        super().__init__(plain)

    def load_model(self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = "") -> nn.Module:
        """The loaded model, steered.

        Raises:
            SteeringError: if the steering does not belong to the model, or vLLM runs in a way that was not tried.
        """
        config = read_config(vllm_config)
        steering = Steering.from_pretrained(config.folder)
        check_engine(vllm_config)
        check_model(steering, config, model_config)
        model: nn.Module = super().load_model(vllm_config, model_config, prefix)
        slots = vllm_config.scheduler_config.max_num_seqs
        step = steer_layers(
            model,
            steering,
            model_config.get_total_num_hidden_layers(),
            _most_tokens(vllm_config),
            2 * slots,
            eager=model_config.enforce_eager,
        )
        if vllm_config.use_v2_model_runner:
            setattr(model, FILLER, SecondStepFiller(step, steering.reply_start, config, slots))
        else:
            setattr(model, FILLER, StepFiller(step, steering.reply_start, config))
        return model


def check_engine(vllm_config: VllmConfig) -> None:
    """Refuse what would leave tokens unsteered, or was never tried."""
    parallel, scheduler, model = vllm_config.parallel_config, vllm_config.scheduler_config, vllm_config.model_config
    refused = {
        "pipeline parallelism (--pipeline-parallel-size)": parallel.pipeline_parallel_size > 1,
        "data parallelism (run several engines instead)": parallel.data_parallel_size > 1,
        "context parallelism": parallel.prefill_context_parallel_size > 1 or parallel.decode_context_parallel_size > 1,
        "micro-batches (--enable-dbo)": parallel.use_ubatching,
        "adapters (--enable-lora): each makes another model": vllm_config.lora_config is not None,
        # Connectors know blocks by their tokens, not by the salt that keeps strengths apart.
        "blocks shared with other engines (--kv-transfer-config)": vllm_config.kv_transfer_config is not None,
        # The first runner does not know, where it prepares a step, what the step before has written.
        "asynchronous scheduling on the first model runner (pass --no-async-scheduling)": scheduler.async_scheduling
        and not vllm_config.use_v2_model_runner,
        "speculative decoding (--speculative-config)": vllm_config.speculative_config is not None,
        "sleep mode (--enable-sleep-mode), which forgets what hooks hold": model.enable_sleep_mode,
        "weights sent while it serves (--weight-transfer-config)": vllm_config.weight_transfer_config is not None,
        "prompt embeddings (--enable-prompt-embeds)": model.enable_prompt_embeds,
    }
    wrong = next((name for name, asked in refused.items() if asked), None)
    if wrong is not None:
        raise SteeringError(f"AlphaSteer does not steer in vLLM with {wrong}.")


def check_model(steering: Steering, config: ServingConfig, model_config: ModelConfig) -> None:
    """Refuse another model, or another artefact than the one whose digest keys vLLM's caches."""
    check_digest(steering, config)
    width, fitted = model_config.get_hidden_size(), steering.fitted_on
    if width != steering.hidden_size:
        raise SteeringError(
            f"{config.folder} has vectors of length {steering.hidden_size}, and the model's are {width}."
        )
    if fitted is None:
        return
    from transformers import AutoTokenizer

    from alphasteer.prompts import ChatTemplate

    tokenizer = AutoTokenizer.from_pretrained(model_config.tokenizer, revision=model_config.tokenizer_revision)
    found = {
        "layers": model_config.get_total_num_hidden_layers(),
        "chat_template": ChatTemplate(tokenizer).digest,
    }
    differences = fitted.differences(fitted.model_copy(update=found))
    if differences:
        raise SteeringError(f"{config.folder} was fitted on another model than this: {'; '.join(differences)}.")


def _most_tokens(vllm_config: VllmConfig) -> int:
    captured = int(vllm_config.compilation_config.max_cudagraph_capture_size or 0)
    return max(int(vllm_config.scheduler_config.max_num_batched_tokens), captured)
