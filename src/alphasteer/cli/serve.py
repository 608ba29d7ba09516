"""``alphasteer serve``: the steered model behind an OpenAI-compatible server."""

import os
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from alphasteer.cli.console import ConsoleReporter
from alphasteer.cli.options import Device, Dtype, Folder, Model, Quiet
from alphasteer.errors import AlphaSteerError

KEY = "ALPHASTEER_API_KEY"


class EngineName(StrEnum):
    """What runs the model."""

    auto = "auto"
    vllm = "vllm"
    transformers = "transformers"


def command(
    context: typer.Context,
    folder: Folder,
    engine: Annotated[
        EngineName, typer.Option(help="auto takes vLLM where it is installed; what follows -- goes to it as it is.")
    ] = EngineName.auto,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 for every interface.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")] = 8000,
    name: Annotated[str | None, typer.Option(help="The model's name in requests; its own if not given.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar=KEY, help="Ask for this bearer token; better set in the environment.")
    ] = None,
    allow_strength: Annotated[bool, typer.Option(help="Requests may set their own strength, 0 to 1.5.")] = False,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Requests that share a batch at most (16; in vLLM what it takes).")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Length of a reply at most (1024; in vLLM what the context leaves).")
    ] = None,
    max_bytes: Annotated[int, typer.Option(min=1024, help="Size of a request's body at most.")] = 1 << 20,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which a request is given up.")] = 300.0,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quiet: Quiet = False,
) -> None:
    """Serve the steered model: /v1/chat/completions, /v1/completions, /v1/models, /health, /metrics, a page at /."""
    if api_key is not None and len(api_key) < 8:
        raise typer.BadParameter("an API key has at least 8 characters.", param_hint="--api-key")
    if engine is EngineName.auto:
        engine = EngineName.vllm if find_spec("vllm") else EngineName.transformers
    reporter = ConsoleReporter(quiet)
    if engine is EngineName.vllm:
        if not find_spec("vllm"):
            raise AlphaSteerError(
                "vLLM is not installed; pip install 'alphasteer[vllm]', or pass --engine transformers."
            )
        from alphasteer.engines.protocol import Limits
        from alphasteer.engines.vllm.serving import server_command, server_environment
        from alphasteer.engines.vllm.settings import ServingConfig
        from alphasteer.steering import Steering
        from alphasteer.steering.loading import base_model

        steering = Steering.from_pretrained(folder)
        source = base_model(steering, folder, model)
        arguments = server_command(
            ServingConfig(folder=folder, digest=steering.digest, allow_strength=allow_strength, most_tokens=max_tokens),
            source,
            name=name or Path(source).name,
            host=host,
            port=port,
            dtype=dtype,
            more=[*([] if batch is None else ["--max-num-seqs", str(batch)]), *context.args],
        )
        if device != "auto":
            raise typer.BadParameter("vLLM chooses its device by itself; leave it out.", param_hint="--device")
        reporter.say(f"Starting vLLM: {' '.join(arguments)}")
        # From here on it is vLLM's process: signals reach it.
        limits = Limits(most_bytes=max_bytes, seconds=timeout)
        os.execve(arguments[0], arguments, server_environment(os.environ, api_key, limits))
    if context.args:
        raise typer.BadParameter(f"{' '.join(context.args)}: only vLLM takes more options.")
    try:
        from alphasteer.engines.server import Engine, Server, ServerSettings
    except ImportError as error:
        raise AlphaSteerError(f"The server is not installed ({error}); pip install 'alphasteer[serve]'.") from error
    from alphasteer.steering import load_steered

    reporter.say(f"Loading {folder}")
    steering, loaded, tokenizer = load_steered(folder, model, device, dtype)
    settings = ServerSettings(
        name=name or Path(str(loaded.config._name_or_path)).name,
        api_key=api_key,
        allow_strength=allow_strength,
        most_rows=batch or 16,
        most_bytes=max_bytes,
        most_tokens=max_tokens or 1024,
        seconds=timeout,
    )
    running = Engine(loaded, tokenizer, steering, most_rows=settings.most_rows, most_waiting=settings.most_waiting)
    reporter.say(f"Serving {settings.name} at http://{host}:{port}; Ctrl-C stops.")
    level = "warning" if quiet else "info"
    Server(running, settings, host=host, port=port, log_level=level).run()
