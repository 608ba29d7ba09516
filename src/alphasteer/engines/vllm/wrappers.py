"""What stands around vLLM's methods: each leaves engines that are not steered alone."""

from collections.abc import Callable
from typing import Any

from alphasteer.engines.protocol import card
from alphasteer.engines.vllm.batches import FILLER
from alphasteer.engines.vllm.gate_reports import add_reports, hand_over, keep_scores, with_scores
from alphasteer.engines.vllm.prompt_ends import reach
from alphasteer.engines.vllm.requests import bound, bound_beams, most_cached, problem_of, salted
from alphasteer.engines.vllm.seeds import undrawn
from alphasteer.engines.vllm.self_test import check_self_test
from alphasteer.engines.vllm.settings import KEY, ServingConfig, check_digest, is_steered, read_config
from alphasteer.engines.vllm.translation import tell, telling, translate, watched
from alphasteer.steering import Steering

PROVED, HELD, ENDS = "_alphasteer_proved", "_alphasteer_held", "_alphasteer_ends"


def prepare_inputs(original: Callable[..., Any], runner: Any, scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
    """Before each step: which tokens are pushed, and how strongly."""
    filler = _filler_of(runner)
    if filler is not None:
        filler.fill(runner, num_scheduled_tokens)
    return original(runner, scheduler_output, num_scheduled_tokens)


def add_requests(original: Callable[..., Any], runner: Any, scheduler_output: Any) -> Any:
    """Of the second model runner: requests come, each into a slot."""
    found = original(runner, scheduler_output)
    filler = _filler_of(runner)
    if filler is not None:
        for new in scheduler_output.scheduled_new_reqs:
            filler.add(runner.req_states.req_id_to_index[new.req_id], new)
    return found


def prepare_second_inputs(original: Callable[..., Any], runner: Any, *args: Any, **kwargs: Any) -> Any:
    """Of the second model runner: like ``prepare_inputs``, once the step's tokens are laid out on the device."""
    batch = original(runner, *args, **kwargs)
    filler = _filler_of(runner)
    if filler is not None:
        filler.fill(batch, runner.req_states.all_token_ids.gpu)
    return batch


def sample_tokens(original: Callable[..., Any], runner: Any, *args: Any, **kwargs: Any) -> Any:
    """After each step's layers: what the gates read where replies start goes along with the tokens."""
    filler = _filler_of(runner)
    if filler is None:
        return original(runner, *args, **kwargs)
    taken = filler.take_scores()  # first: the copy is done when the tokens are there
    with undrawn(runner):
        return with_scores(original(runner, *args, **kwargs), taken)


def update_from_output(original: Callable[..., Any], scheduler: Any, scheduler_output: Any, output: Any) -> Any:
    """Where a step's tokens become outputs: replies that begin carry what the gates read."""
    if not is_steered(scheduler.vllm_config):
        return original(scheduler, scheduler_output, output)
    every = scheduler.requests
    requests = {name: every[name] for name in scheduler_output.num_scheduled_tokens if name in every}
    keep_scores(requests, output)
    outputs = original(scheduler, scheduler_output, output)
    add_reports(requests, outputs.values(), *_artefact_of(scheduler))
    return outputs


def process_outputs(original: Callable[..., Any], processor: Any, outputs: Any, *args: Any, **kwargs: Any) -> Any:
    """In the front end, before outputs become replies: gates are counted, and told to those who asked."""
    hand_over(processor.request_states, outputs)
    return original(processor, outputs, *args, **kwargs)


def preprocess_add_request(original: Callable[..., Any], core: Any, request: Any) -> Any:
    """Before a request's blocks are hashed: blocks of other strengths and steerings are not its own."""
    if not is_steered(core.vllm_config):
        return original(core, request)
    steering, config = _artefact_of(core)
    request.cache_salt = salted(request.cache_salt, request.sampling_params, config)
    prepared = original(core, request)
    if steering.prompt_end is not None:
        marker = steering.reply_start
        setattr(prepared[0], ENDS, (marker, reach(steering.prompt_end, len(marker))))
    return prepared


def get_computed_blocks(original: Callable[..., Any], manager: Any, request: Any) -> Any:
    """Where cached blocks are found: of prompts whose end gates read, none that hold a part of one still to be read."""
    found, every = original(manager, request), request.block_hashes
    if hasattr(request, ENDS):
        try:
            # Fewer hashes, fewer blocks: perhaps by whole groups of them, so that another end may be cut in two.
            while (most := most_cached(request.all_token_ids, found[1], *getattr(request, ENDS))) < found[1]:
                request.block_hashes = every[: most // manager.coordinator.block_pool.hash_block_size]
                found = original(manager, request)
        finally:
            request.block_hashes = every
    return found


def get_supported_tasks(original: Callable[..., Any], core: Any) -> Any:
    """What every front end asks an engine core before it serves: the answer waits until it has proved that it steers.

    Not at the end of the core's ``__init__``, which is already running where vLLM loads its plug-ins.
    """
    if is_steered(core.vllm_config) and not getattr(core, PROVED, False):
        setattr(core, PROVED, True)  # first: the test itself comes by here
        proved = False
        try:
            check_self_test(core, read_config(core.vllm_config))
            proved = True
        finally:
            if not proved:  # whoever asks again is told again
                delattr(core, PROVED)
    return original(core)


def process_inputs(
    original: Callable[..., Any], processor: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any
) -> Any:
    """Where requests come in: what cannot be steered as asked is refused, as a client's error."""
    if not is_steered(processor.vllm_config):
        return original(processor, request_id, prompt, params, *args, **kwargs)
    steering, config = _artefact_of(processor)
    bound(params, config)
    request = original(processor, request_id, prompt, params, *args, **kwargs)
    _refuse(problem_of(params, request.prompt_token_ids, steering.reply_start, config))
    return request


async def create(original: Callable[..., Any], serving: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Of chats and completions, where OpenAI's requests come in: wishes in the field ``alphasteer``."""
    if is_steered(serving.engine_client.vllm_config):
        _refuse(translate(request))
        bound_beams(request, _artefact_of(serving.engine_client)[1])
    return await original(serving, request, *args, **kwargs)


async def whole_chat(original: Callable[..., Any], serving: Any, *args: Any, **kwargs: Any) -> Any:
    """The reply of a chat that does not stream."""
    return tell(await original(serving, *args, **kwargs))


def whole_completion(original: Callable[..., Any], serving: Any, *args: Any, **kwargs: Any) -> Any:
    """The reply of a completion that does not stream."""
    return tell(original(serving, *args, **kwargs))


def chat_stream(
    original: Callable[..., Any], serving: Any, request: Any, result_generator: Any, *args: Any, **kwargs: Any
) -> Any:
    """The events of a chat."""
    told: dict[str, Any] = {}
    results = watched(result_generator, told, lambda result: result)
    return telling(original(serving, request, results, *args, **kwargs), told)


def completion_stream(
    original: Callable[..., Any],
    serving: Any,
    request: Any,
    engine_inputs: Any,
    result_generator: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """The events of a completion; its results come with the number of their prompt."""
    told: dict[str, Any] = {}
    results = watched(result_generator, told, lambda result: result[1])
    return telling(original(serving, request, engine_inputs, results, *args, **kwargs), told)


async def show_available_models(original: Callable[..., Any], models: Any) -> Any:
    """``/v1/models``: each model's card tells of the steering."""
    shown = await original(models)
    if is_steered(models.engine_client.vllm_config):
        steering, config = _artefact_of(models.engine_client)
        told = card(steering, allow_strength=config.allow_strength)
        for each in shown.data:
            setattr(each, KEY, told)
    return shown


def _refuse(problem: str | None) -> None:
    if problem is not None:
        from vllm.exceptions import VLLMValidationError

        raise VLLMValidationError(problem)


def _filler_of(runner: Any) -> Any:
    """What fills the buffers of a steered model; None on a runner whose model is not steered."""
    return getattr(runner.get_model(), FILLER, None)


def _artefact_of(owner: Any) -> tuple[Steering, ServingConfig]:
    """The artefact and the operator's settings, read once by each of vLLM's objects that needs them.

    Raises:
        SteeringError: if the artefact is no longer the one that the engine was configured for.
    """
    if not hasattr(owner, HELD):
        config = read_config(owner.vllm_config)
        steering = Steering.from_pretrained(config.folder)
        check_digest(steering, config)
        setattr(owner, HELD, (steering, config))
    found: tuple[Steering, ServingConfig] = getattr(owner, HELD)
    return found
