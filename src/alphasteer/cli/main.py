"""The ``alphasteer`` command: it gathers the commands and turns errors into one sentence and an exit code."""

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import typer

from alphasteer.cli import calibrate, chat, demo, fit, generate, inspect, lm_eval, score, serve
from alphasteer.cli import eval as evaluation
from alphasteer.errors import AlphaSteerError


def _interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """A command that says on Ctrl-C how to go on; typer would say no more than that it was aborted."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except KeyboardInterrupt:
            print("alphasteer: interrupted; run the same command again to go on.", file=sys.stderr)
            raise typer.Exit(130) from None

    return run


app = typer.Typer(
    name="alphasteer",
    help="Make any open-weight chat model refuse malicious requests, without retraining it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, fit, calibrate, evaluation, generate, chat, score, inspect):
    app.command(name=command.__name__.rpartition(".")[2])(_interruptible(command.command))
# What follows -- is vLLM's to know.
app.command(name="serve", context_settings={"allow_extra_args": True})(serve.command)
# What lm_eval takes is lm_eval's to know.
app.command(name="lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    _interruptible(lm_eval.command)
)


def main() -> None:
    """Run a command: exit code 0 if it worked, 1 if it failed, 2 if it was called wrongly, 130 on Ctrl-C."""
    _quiet_libraries()
    try:
        app()
    except AlphaSteerError as error:
        print(f"alphasteer: {error}", file=sys.stderr)
        sys.exit(1)


def _quiet_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
