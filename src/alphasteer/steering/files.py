"""The artefact on disk and on the Hub: ``steering.json``, ``steering.safetensors``, a model card. Never pickle."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from alphasteer.errors import SteeringError, first_line, first_problem
from alphasteer.models import Fingerprint
from alphasteer.prompts import PromptEnd
from alphasteer.resuming import write_whole
from alphasteer.steering.card import model_card
from alphasteer.steering.steering import Gate, Positions, Push, Steering

FORMAT_VERSION = 3
"""1: a gate has one read-out a layer; 2: it may have several, of which the largest decides; 3: it may be several gates,
whose mean decides, and may read means."""
JSON_NAME, TENSORS_NAME, CARD_NAME = "steering.json", "steering.safetensors", "README.md"


class PushEntry(BaseModel):
    """One push as the file states it: ``push.N.gate.LAYER`` and ``push.N.direction.LAYER``, the latter of shape (d,).

    A gate's are of shape (d,), (k, d) or (g, k, d): of k read-outs the largest counts, of g gates the mean.
    Where a gate reads the prompt's end too, the first d of its 2 d columns are for the stream at the reply start.
    """

    model_config = ConfigDict(extra="forbid")

    gate_layers: list[int]
    gate_reads: Literal["reply start", "reply start, prompt end"] = "reply start"
    threshold: float | None
    ceiling: float | None
    normalised: bool = False
    strength: float
    layers: list[int]


class SteeringFile(BaseModel):
    """``steering.json``. Whoever reads the vectors must find here the operation, the hook point and the layers."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["alphasteer"]
    version: int
    operation: Literal[
        "h + strength * clip((mean max sum w.h - threshold) / (ceiling - threshold), 0, 1) * r",
        "h + strength * clip((max sum w.h - threshold) / (ceiling - threshold), 0, 1) * r",
        "h + strength * clip((sum w.h - threshold) / (ceiling - threshold), 0, 1) * r",
    ] = "h + strength * clip((mean max sum w.h - threshold) / (ceiling - threshold), 0, 1) * r"
    hook_point: Literal["residual stream at the input of the decoder layer"] = (
        "residual stream at the input of the decoder layer"
    )
    positions: Positions
    reply_start: list[int]
    prompt_end: PromptEnd | None = None
    pushes: list[PushEntry]
    tensors_sha256: str
    fitted_on: Fingerprint | None
    record: dict[str, Any]


def save_steering(steering: Steering, folder: Path) -> None:
    """Write the artefact; each file appears whole or not at all.

    Raises:
        SteeringError: if the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    entries = []
    for number, push in enumerate(steering.pushes):
        tensors |= {f"push.{number}.gate.{layer}": w for layer, w in push.gate.w.items()}
        tensors |= {f"push.{number}.direction.{layer}": r for layer, r in push.directions.items()}
        gate = push.gate
        entries.append(
            PushEntry(
                gate_layers=list(gate.layers),
                gate_reads="reply start, prompt end" if push.reads_prompt_end else "reply start",
                threshold=gate.threshold,
                ceiling=gate.ceiling,
                normalised=gate.normalised,
                strength=push.strength,
                layers=sorted(push.directions),
            )
        )
    packed = save_tensors({name: t.detach().float().cpu().contiguous() for name, t in tensors.items()})
    content = SteeringFile(
        format="alphasteer",
        version=FORMAT_VERSION,
        positions=steering.positions,
        reply_start=list(steering.reply_start),
        prompt_end=steering.prompt_end,
        pushes=entries,
        tensors_sha256=hashlib.sha256(packed).hexdigest(),
        fitted_on=steering.fitted_on,
        record=dict(steering.record),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / TENSORS_NAME, packed)
        write_whole(folder / CARD_NAME, model_card(steering).encode())
        write_whole(folder / JSON_NAME, (content.model_dump_json(indent=2) + "\n").encode())
    except OSError as error:
        raise SteeringError(f"{folder} cannot be written ({error.strerror}); choose another folder.") from error


def load_steering(source: str | Path, revision: str | None = None) -> Steering:
    """Read an artefact from a folder or, where there is no such folder, from the Hub.

    Raises:
        SteeringError: if it is missing, damaged, foreign or of a newer version; nothing is half loaded.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = _download(str(source), revision)
    content = _read_json(folder / JSON_NAME)
    try:
        packed = (folder / TENSORS_NAME).read_bytes()
    except OSError as error:
        raise SteeringError(f"{folder} has no readable {TENSORS_NAME} ({error.strerror}); save it again.") from error
    if hashlib.sha256(packed).hexdigest() != content.tensors_sha256:
        raise SteeringError(f"{folder / TENSORS_NAME} is damaged or belongs to another {JSON_NAME}; fetch both again.")
    try:
        return _steering_of(content, load_tensors(packed))
    except (SafetensorError, KeyError) as error:
        raise SteeringError(
            f"{folder / TENSORS_NAME} lacks what {JSON_NAME} names ({error}); fetch both again."
        ) from error


def _read_json(path: Path) -> SteeringFile:
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise SteeringError(
            f"{path} cannot be read ({error.strerror}); name a folder that alphasteer wrote."
        ) from error
    except ValueError as error:
        raise SteeringError(f"{path} is no JSON ({error}); the file is damaged, fetch it again.") from error
    if not isinstance(raw, dict) or raw.get("format") != "alphasteer":
        raise SteeringError(f"{path} is no AlphaSteer artefact; name a folder that alphasteer wrote.")
    if not isinstance(raw.get("version"), int) or raw["version"] > FORMAT_VERSION:
        raise SteeringError(
            f"{path} has format version {raw.get('version')!r}, newer than {FORMAT_VERSION}; update alphasteer."
        )
    try:
        return SteeringFile.model_validate(raw)
    except ValidationError as error:
        where, problem = first_problem(error, "the whole")
        raise SteeringError(f"{path} is damaged at {where} ({problem}); fetch it again.") from error


def _steering_of(content: SteeringFile, tensors: dict[str, Tensor]) -> Steering:
    pushes = []
    for number, entry in enumerate(content.pushes):
        w = {layer: tensors.pop(f"push.{number}.gate.{layer}") for layer in entry.gate_layers}
        directions = {layer: tensors.pop(f"push.{number}.direction.{layer}") for layer in entry.layers}
        gate = Gate(w, entry.threshold, entry.ceiling, entry.normalised)
        pushes.append(Push(gate, directions, entry.strength))
        if pushes[-1].reads_prompt_end != (entry.gate_reads != "reply start"):
            raise SteeringError(f"{TENSORS_NAME} holds a gate that does not read what {JSON_NAME} says.")
    if tensors:
        raise SteeringError(f"{TENSORS_NAME} holds vectors that {JSON_NAME} does not name: {', '.join(tensors)}.")
    return Steering(
        tuple(pushes),
        tuple(content.reply_start),
        content.positions,
        content.prompt_end,
        content.fitted_on,
        content.record,
    )


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalEntryNotFoundError

    try:
        names = [JSON_NAME, TENSORS_NAME]
        return Path(snapshot_download(repository, revision=revision, allow_patterns=names))
    except (HTTPError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise SteeringError(
            f"{repository} is neither a folder nor a repository of the Hub ({first_line(error)}); check the name."
        ) from error


def upload_steering(steering: Steering, repository: str, *, private: bool, token: str | None) -> str:
    """Create the repository if need be and upload the artefact; returns the commit's address."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_steering(steering, Path(folder))
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            return str(
                api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Add AlphaSteer steering")
            )
        except (HTTPError, HfHubHTTPError, HFValidationError) as error:
            raise SteeringError(
                f"{repository} cannot be uploaded ({first_line(error)}); check the name and your token."
            ) from error
