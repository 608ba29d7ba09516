"""Reading a SPEC: a file, ``hub:org/name[/config or /file][@split][:column]`` or ``starter:KIND[@split]``."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alphasteer.errors import PromptError, first_line
from alphasteer.prompts.prompt_set import Prompt, PromptSet
from alphasteer.prompts.starter import KINDS, starter_prompts

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """Where a source keeps what is needed, if not under the usual names.

    Attributes:
        prompt: the prompt's column, tried before ``messages`` and ``prompt``.
        answer, choices: the columns of the right answer and of what there is to choose from.
        where: only rows with these values are taken.
        loose: rows without such a column are taken too, as where a known suite's prompts come from elsewhere.
    """

    prompt: str | None = None
    answer: str = "answer"
    choices: str = "choices"
    where: Mapping[str, str] = field(default_factory=dict)
    loose: bool = False


def read_prompts(spec: str, columns: Columns | None = None, folder: Path | None = None) -> PromptSet:
    """Read the prompts that a SPEC names.

    A file is JSONL, JSON (a list), CSV, TSV, Parquet or plain text (one prompt a line); ``PATH:COLUMN`` names
    the column if it is neither ``prompt`` nor ``messages``. ``hub:org/name`` needs the extra ``alphasteer[data]``;
    ``hub:org/name/file.json`` takes one file of the repository as it is. Of a chat that ends with the assistant's
    reply, as training data do, that turn is left out: a prompt ends where a reply is due.

    Args:
        spec: a SPEC, as above.
        columns: where the source keeps what is needed.
        folder: where a file is looked for before the working folder.

    Raises:
        PromptError: if the source is missing, unreadable, empty or has no such column.
    """
    if spec.startswith("starter:"):
        kind, _, split = spec.removeprefix("starter:").partition("@")
        if kind not in KINDS:
            raise PromptError(f"{spec}: there is no starter set {kind!r}; choose one of {', '.join(KINDS)}.")
        return starter_prompts(kind, split or None)
    if spec.startswith("hub:"):
        rest, _, column = spec.removeprefix("hub:").partition(":")
        name, _, split = rest.partition("@")
        repository, config = _name_and_config(name)
        if config and Path(config).suffix in _READERS:
            rows: Iterable[Row] = _file_rows(_hub_file(repository, config, spec))
        else:
            rows = _hub_rows(repository, config, split or "train", spec)
    else:
        path, column = _path_and_column(spec, folder)
        rows = _file_rows(path)
    return PromptSet.of(_prompts(rows, column or None, columns or Columns(), spec), name=spec)


def _name_and_config(name: str) -> tuple[str, str | None]:
    parts = name.split("/")
    return "/".join(parts[:2]), "/".join(parts[2:]) or None


def _path_and_column(spec: str, folder: Path | None) -> tuple[Path, str]:
    head, _, column = spec.rpartition(":")
    for place in filter(None, (folder, Path())):
        for name, rest in ((spec, ""), (head, column)):
            path = place / Path(name).expanduser()
            if name and path.exists():
                return path, rest
    looked = "no such file" if folder is None else f"no such file, in {folder} or in the working folder"
    raise PromptError(f"{spec}: {looked}; give a path, hub:org/name[:column] or starter:KIND.")


def _file_rows(path: Path) -> Iterator[Row]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise PromptError(f"{path}: unknown file type; use one of {', '.join(sorted(_READERS))}.")
    try:
        yield from reader(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PromptError(f"{path} cannot be read ({error}); check the file and its UTF-8 encoding.") from error
    except json.JSONDecodeError as error:
        raise PromptError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); mend that line.") from error


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise PromptError(
                        f"{path}, line {number}: not valid JSON ({error.msg}); mend that line."
                    ) from error


def _json_rows(path: Path) -> Iterator[Row]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise PromptError(f"{path} holds no JSON list; write a list of objects or of texts.")
    yield from rows


def _csv_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")


def _text_rows(path: Path) -> Iterator[Row]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield {"prompt": line}


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise PromptError(f"{path}: reading Parquet needs pyarrow; pip install 'alphasteer[data]'.") from error
    try:
        yield from pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise PromptError(f"{path} is not a valid Parquet file ({error}); write it again.") from error


_READERS = {
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".txt": _text_rows,
    ".parquet": _parquet_rows,
}


def _hub_file(repository: str, file: str, spec: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(repository, file, repo_type="dataset"))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise PromptError(f"{spec} cannot be fetched ({first_line(error)}); check the name and the network.") from error


def _hub_rows(name: str, config: str | None, split: str, spec: str) -> Iterator[Row]:
    try:
        import datasets
    except ImportError as error:
        raise PromptError(f"{spec}: reading from the Hub needs datasets; pip install 'alphasteer[data]'.") from error
    try:
        yield from datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: what only a script could load
        raise PromptError(
            f"{spec} cannot be loaded ({first_line(error)}); check the name, the split and the network."
        ) from error


def _prompts(rows: Iterable[Row], column: str | None, columns: Columns, spec: str) -> Iterator[Prompt]:
    for number, row in enumerate(rows):
        if isinstance(row, str):
            row = {"prompt": row}
        if not isinstance(row, Mapping):
            raise PromptError(f"{spec}: row {number + 1} is neither an object nor a text; give it a prompt column.")
        absent = None if columns.loose else next((name for name in columns.where if name not in row), None)
        if absent is not None:
            raise PromptError(
                f"{spec}: row {number + 1} has no column {absent!r}, by which rows are chosen; mend where."
            )
        if any(str(row[name]) != value for name, value in columns.where.items() if name in row):
            continue
        usual = (columns.prompt, "messages", "prompt")
        chosen = column or next((name for name in usual if name in row), None)
        if chosen is None or chosen not in row:
            known = ", ".join(map(str, row)) or "none"
            raise PromptError(
                f"{spec}: row {number + 1} has no column {chosen or 'prompt'!r} (it has {known}); "
                f"name the column as SPEC:COLUMN."
            )
        prompt = _prompt(row[chosen], row, number, spec)
        answer, choices = row.get(columns.answer), row.get(columns.choices)
        yield replace(
            prompt,
            answer="" if answer is None else str(answer),
            choices=tuple(map(str, choices)) if isinstance(choices, list) else (),
        )


def _prompt(value: Any, row: Row, number: int, spec: str) -> Prompt:
    identity = str(row.get("id", f"row-{number:05d}"))
    category, split = str(row.get("category") or ""), str(row.get("split") or "")
    if isinstance(value, str):
        return Prompt.of(value, identity, category, split)
    turns = value if isinstance(value, list) else []
    if not turns or not all(isinstance(t, Mapping) and {"role", "content"} <= t.keys() for t in turns):
        raise PromptError(f"{spec}: row {number + 1} holds no text and no chat; write a text or role/content turns.")
    if not all(isinstance(t["role"], str) and isinstance(t["content"], str) for t in turns):
        raise PromptError(f"{spec}: row {number + 1} has a turn whose role or content is no text; write texts.")
    if turns[-1]["role"] == "assistant":
        turns = turns[:-1]
    return Prompt(identity, tuple({"role": t["role"], "content": t["content"]} for t in turns), category, split)
