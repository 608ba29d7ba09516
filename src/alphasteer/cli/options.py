"""Options that several commands share, each defined once."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphasteer.errors import AlphaSteerError, SteeringError

if TYPE_CHECKING:
    from alphasteer.steering import Steering

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the result.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda:0, ...")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Model = Annotated[
    str | None, typer.Option(help="The model to steer, if it is no longer where the steering was fitted on it.")
]
Strength = Annotated[float, typer.Option(help="Factor on the fitted strength; 0 is off.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Length of a reply at most.")]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="The artefact: a folder, or a repository on the Hub.")]


def load_steered(folder: str, model: str | None, device: str, dtype: str) -> tuple["Steering", Any, Any]:
    """The steering, and the model and tokenizer it was fitted on.

    Raises:
        SteeringError: if the model, its tokenizer or its chat template is another one.
    """
    from alphasteer.models import fingerprint, load_model
    from alphasteer.steering import Steering

    steering = Steering.from_pretrained(folder)
    if steering.fitted_on is None and model is None:
        raise SteeringError(f"{folder} does not say which model it belongs to; name it with --model.")
    source = model or (steering.fitted_on.model_id if steering.fitted_on else "")
    loaded, tokenizer = load_model(source, device, dtype)
    if steering.fitted_on is not None:
        differences = steering.fitted_on.differences(fingerprint(loaded, tokenizer))
        if differences:
            raise SteeringError(
                f"{folder} was fitted on {steering.fitted_on.model_id}, and {source} differs: "
                f"{'; '.join(differences)}; fit a steering for it."
            )
    return steering, loaded, tokenizer


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
