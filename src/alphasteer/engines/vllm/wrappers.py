"""What stands around vLLM's methods: each leaves engines that are not steered alone."""

from collections.abc import Callable
from typing import Any

from alphasteer.engines.vllm.batches import FILLER
from alphasteer.engines.vllm.requests import problem_of, salted
from alphasteer.engines.vllm.self_test import check_self_test
from alphasteer.engines.vllm.settings import is_steered, read_config
from alphasteer.steering import Steering

PROVED = "_alphasteer_proved"


def prepare_inputs(original: Callable[..., Any], runner: Any, scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
    """Before each step: which tokens are pushed, and how strongly."""
    filler = getattr(runner.get_model(), FILLER, None)
    if filler is not None:
        filler.fill(runner, num_scheduled_tokens)
    return original(runner, scheduler_output, num_scheduled_tokens)


def preprocess_add_request(original: Callable[..., Any], core: Any, request: Any) -> Any:
    """Before a request's blocks are hashed: blocks of other strengths and steerings are not its own."""
    if is_steered(core.vllm_config):
        config = read_config(core.vllm_config)
        request.cache_salt = salted(request.cache_salt, request.sampling_params, config)
    return original(core, request)


def get_supported_tasks(original: Callable[..., Any], core: Any) -> Any:
    """What every front end asks an engine core before it serves: the answer waits until it has proved that it steers.

    Not at the end of the core's ``__init__``, which is already running where vLLM loads its plug-ins.
    """
    if is_steered(core.vllm_config) and not getattr(core, PROVED, False):
        setattr(core, PROVED, True)  # first: the test itself comes by here
        check_self_test(core, read_config(core.vllm_config))
    return original(core)


def process_inputs(
    original: Callable[..., Any], processor: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any
) -> Any:
    """Where requests come in: what cannot be steered as asked is refused, as a client's error."""
    request = original(processor, request_id, prompt, params, *args, **kwargs)
    if is_steered(processor.vllm_config):
        from vllm.exceptions import VLLMValidationError

        config = read_config(processor.vllm_config)
        problem = problem_of(params, request.prompt_token_ids, _marker(processor, config.folder), config)
        if problem is not None:
            raise VLLMValidationError(problem)
    return request


def _marker(processor: Any, folder: str) -> tuple[int, ...]:
    """The reply start, read once by each process that takes requests in."""
    if not hasattr(processor, "_alphasteer_marker"):
        processor._alphasteer_marker = Steering.from_pretrained(folder).reply_start
    marker: tuple[int, ...] = processor._alphasteer_marker
    return marker
