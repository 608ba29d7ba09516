"""Keeping the results of long steps in a folder, so that an interrupted run goes on where it stopped."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alphasteer.errors import AlphaSteerError


def digest(identity: Any) -> str:
    """A short SHA-256 of a JSON value: equal inputs, equal names."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, meets the old content or the new one, never a part."""
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o644)  # mkstemp's 0600 would lock colleagues out
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


@contextmanager
def alone_in(folder: Path) -> Iterator[Path]:
    """Hold a folder for one run; the hold ends with the process, however that ends.

    Raises:
        AlphaSteerError: if another run holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise AlphaSteerError(
            f"Another run is at work in {folder}; wait for it, or choose another output folder."
        ) from error
    try:
        yield folder
    finally:
        lock.release()


class Shelf:
    """Tensors and JSON lines by what they were made from; without a folder, nothing is kept."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def tensors(self, name: str, identity: Any, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What ``compute`` gave for this identity, computed only if it is not on the shelf."""
        path = self._path(name, identity)
        found = _loaded(path)
        if found is not None:
            return found
        result = compute()
        if path is not None:
            scratch = path.with_suffix(".part")
            save_file({key: value.contiguous() for key, value in result.items()}, scratch)
            scratch.replace(path)
        return result

    def known(self, name: str, identity: Any) -> dict[str, Tensor] | None:
        """What is on the shelf for this identity, if anything is."""
        return _loaded(self._path(name, identity))

    def _path(self, name: str, identity: Any) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}-{digest(identity)}.safetensors"

    def journal(self, name: str, identity: Any) -> "Journal":
        """The journal of this identity, with what an earlier run wrote into it."""
        return Journal(None if self.folder is None else self.folder / f"{name}-{digest(identity)}.jsonl")


def _loaded(path: Path | None) -> dict[str, Tensor] | None:
    if path is None or not path.exists():
        return None
    try:
        return dict(load_file(path))
    except SafetensorError:  # damaged from outside: what is written here is whole or absent
        path.unlink()
        return None


class Journal:
    """JSON values by number or word, appended line by line; a line cut off by a crash is dropped and written again."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.entries: dict[Any, Any] = {}
        if path is not None and path.exists():
            found = path.read_bytes()
            whole = found[: found.rfind(b"\n") + 1]
            for line in filter(None, whole.split(b"\n")):  # not splitlines: replies hold other line separators
                try:
                    index, value = json.loads(line)
                except ValueError as error:
                    raise AlphaSteerError(f"{path} is damaged ({error}); remove it and run again.") from error
                self.entries[index] = value
            if whole != found:
                write_whole(path, whole)

    def add(self, values: Mapping[Any, Any]) -> None:
        """Keep these values."""
        self.entries.update(values)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(
                    json.dumps([index, value], ensure_ascii=False) + "\n" for index, value in values.items()
                )
