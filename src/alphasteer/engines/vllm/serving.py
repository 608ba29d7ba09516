"""The command that starts vLLM's own server on a steered model."""

import json
import sys
from collections.abc import Mapping, Sequence

from alphasteer.engines.protocol import GRACE, Limits
from alphasteer.engines.vllm.front import API_KEY, LIMITS, Front
from alphasteer.engines.vllm.settings import LOAD_FORMAT, ServingConfig, additional_config
from alphasteer.errors import SteeringError

TEMPLATES = ("--chat-template", "--trust-request-chat-template")


def server_command(
    config: ServingConfig, model: str, *, name: str, host: str, port: int, dtype: str, more: Sequence[str] = ()
) -> list[str]:
    """The arguments of a process that serves, those that steering needs filled in.

    Args:
        model: a folder, or a name on the Hub.
        more: arguments handed on to vLLM as they are, such as ``--tensor-parallel-size 2``. They come first, so that
            none of them takes the steering off: of an option given twice, the last counts.

    Raises:
        SteeringError: if one of them has chats rendered otherwise than the gate knows them.
    """
    for option in TEMPLATES:
        if any(given.partition("=")[0].replace("_", "-") == option for given in more):
            raise SteeringError(f"AlphaSteer does not steer with {option}: gates know the model's own template alone.")
    options = {
        "--model": model,
        "--served-model-name": name,
        "--host": host,
        "--port": str(port),
        "--dtype": dtype,
        "--load-format": LOAD_FORMAT,
        "--additional-config": json.dumps(additional_config(config)),
        # The last one added is the first to see a request.
        "--middleware": f"{Front.__module__}.{Front.__qualname__}",
    }
    # python -m: the vllm command of the CPU build does not know its own version.
    module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    defaults = ["--no-async-scheduling", "--shutdown-timeout", str(GRACE)]
    return [*module, *defaults, *more, *(part for pair in options.items() for part in pair)]


def server_environment(environment: Mapping[str, str], api_key: str | None, limits: Limits) -> dict[str, str]:
    """The environment of that process: the first model runner unless it asks for the second, the key out of sight."""
    key = {} if api_key is None else {API_KEY: api_key}
    return {"VLLM_USE_V2_MODEL_RUNNER": "0", **environment, **key, LIMITS: limits.model_dump_json()}
