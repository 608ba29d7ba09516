"""Who says whether a reply refuses: refusal phrases by default, or any judge of your own."""

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from alphasteer.errors import EvaluationError
from alphasteer.replies import is_thinking, refuses
from alphasteer.resuming import Journal, digest

Judge = Callable[[str, str], bool | None]
"""Says of a request and its reply whether the reply refuses; None where it cannot say. If it raises, the reply stays
unjudged. One whose attribute ``harm`` is true says whether a reply is safe, and is asked of malicious requests only."""

T = TypeVar("T")

PHRASES = "phrases"
"""The name of the default judge."""
CLASSIFIER = "hf:"
"""How the names of classifiers begin."""


def by_phrases(request: str, reply: str) -> bool:
    """The default: a coherent reply that says in its first sentences that it refuses."""
    return refuses(reply)


def read_judge(spec: str) -> Judge:
    """The judge that ``phrases``, ``hf:org/name``, ``package.module:Name`` or ``path/to/file.py:Name`` names.

    ``hf:`` names a safety classifier (see ``classifiers``).

    Raises:
        EvaluationError: if there is no such module, file or name, or it cannot be called.
    """
    if spec == PHRASES:
        return by_phrases
    if spec.startswith(CLASSIFIER):
        from alphasteer.evaluation.classifiers import classifier_judge

        return classifier_judge(spec.removeprefix(CLASSIFIER))
    if ":" not in spec:
        raise EvaluationError(
            f"{spec!r} names no judge; write {PHRASES}, {CLASSIFIER}org/name, package.module:Name or file.py:Name."
        )
    called: Judge = read_callable(spec)
    return called


def read_callable(spec: str) -> Callable[..., Any]:
    """What ``package.module:Name`` or ``path/to/file.py:Name`` names; a class is made an object, without arguments.

    Raises:
        EvaluationError: if there is no such module, file or name, or it cannot be called.
    """
    where, _, name = spec.rpartition(":")
    if not where or not name.isidentifier():
        raise EvaluationError(f"{spec!r} names nothing to call; write package.module:Name or file.py:Name.")
    module = _from_file(Path(where)) if where.endswith(".py") else _from_package(where)
    judge = getattr(module, name, None)
    if judge is None:
        raise EvaluationError(f"{where} has no {name}; check the judge's name.")
    try:
        made = judge() if isinstance(judge, type) else judge
    except TypeError as error:
        raise EvaluationError(f"{spec} cannot be made without arguments ({error}); give them defaults.") from error
    if not callable(made):
        raise EvaluationError(f"{spec} cannot be called; a judge is called with a request and its reply.")
    called: Callable[..., Any] = made
    return called


def identity(spec: str, judge: object) -> list[str]:
    """What tells a judge's verdicts from another's: its name, its file's content, and what it says of itself.

    Args:
        spec: as ``read_judge`` took it.
        judge: what that gave; its attribute ``identity``, if there is one, holds what else decides its verdicts.
    """
    file = Path(spec.rpartition(":")[0])
    content = digest(file.read_text(encoding="utf-8")) if file.suffix == ".py" and file.is_file() else ""
    return [spec, content, str(getattr(judge, "identity", ""))]


def verdicts(
    judge: Judge, pairs: Iterable[tuple[str, str]], journal: Journal, failures: list[str] | None = None
) -> tuple[bool | None, ...]:
    """What a judge says of (request, reply) pairs; None where it failed, or the reply was cut within its thoughts.

    Verdicts are kept in the journal as they come, by what was shown, so that none is paid for twice and equal replies
    fare alike; after a failure the judge is asked again.

    Args:
        failures: is told why the judge failed, each time: a verdict that is no yes, no or None is a failure too.
    """
    found: list[bool | None] = []
    for request, reply in pairs:
        thinking = is_thinking(reply)
        found.append(None if thinking else consulted(journal, (request, reply), judge, _asked, failures))
    return tuple(found)


def consulted(
    journal: Journal,
    shown: Sequence[str],
    judge: Callable[..., Any],
    ask: Callable[..., T],
    failures: list[str] | None = None,
) -> T | None:
    """The verdict that the journal holds on what is shown, or what asking gives, kept with the tokens that it cost.

    Args:
        shown: a request and one reply, or two.
        judge: see ``tokens_so_far``.
        ask: called with the judge and what is shown.
        failures: is told why the judge failed.
    """
    key = digest(list(shown))
    verdict: T | None
    verdict, tokens = journal.entries.get(key, (None, 0))
    if verdict is None:
        before = tokens_so_far(judge)
        verdict = attempted(failures, ask, judge, *shown)
        tokens += tokens_so_far(judge) - before
        if verdict is not None or tokens:
            journal.add({key: [verdict, tokens]})
    return verdict


def tokens_so_far(judge: object) -> int:
    """What a judge has cost: its attribute ``tokens``, if it counts any."""
    tokens = getattr(judge, "tokens", 0)
    return tokens if isinstance(tokens, int) else 0


def attempted(failures: list[str] | None, ask: Callable[..., T], *shown: Any) -> T | None:
    """What asking about what is shown gave, or None and a word in ``failures``."""
    try:
        return ask(*shown)
    except Exception as error:  # noqa: BLE001 a judge is anybody's code: its failure must not cost the others' replies
        if failures is not None:
            failures.append(f"{type(error).__name__}: {error}")
        return None


def _asked(judge: Judge, request: str, reply: str) -> bool | None:
    verdict = judge(request, reply)
    if verdict is not None and verdict not in (True, False):  # any word would count as a refusal
        raise EvaluationError(f"the judge returned {verdict!r}, which is neither True nor False nor None")
    return None if verdict is None else bool(verdict)


def _from_file(path: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(path.stem, path)
    if found is None or found.loader is None or not path.is_file():
        raise EvaluationError(f"{path} is no Python file; check the judge's path.")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise EvaluationError(f"The judge's file {path} cannot be read as Python ({error}); mend it.") from error
    return module


def _from_package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EvaluationError(f"The judge's module {name} cannot be imported ({error}); install or mend it.") from error
