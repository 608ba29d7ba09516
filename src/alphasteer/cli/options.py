"""Options that several commands share, each defined once."""

import math
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from alphasteer.errors import AlphaSteerError

SPEC = "a file, hub:org/name\\[@split]\\[:column] or starter:KIND"
"""Where prompts are, as help says it; what stands in brackets would else be read as markup."""
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda:0, ...")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Model = Annotated[
    str | None, typer.Option(help="The model to steer, if it is no longer where the steering was fitted on it.")
]


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no strength; give a number such as 0.5.")
    return value


Strength = Annotated[float, typer.Option(help="Factor on the fitted strength; 0 is off.", callback=_finite)]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Length of a reply at most.")]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="The artefact: a folder, or a repository on the Hub.")]


def output_folder(output: Path) -> Path:
    """Make sure that the output can be written before hours are spent, and say where an interrupted run keeps its work.

    Raises:
        AlphaSteerError: if the folder cannot be written.
    """
    work = output / "work"
    try:
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=work):
            return work
    except OSError as error:
        raise AlphaSteerError(f"{output} cannot be written ({error.strerror}); choose another folder.") from error
