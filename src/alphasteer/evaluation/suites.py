"""Suites: prompts with what is measured on them, defined as data."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alphasteer.errors import PromptError, first_problem
from alphasteer.evaluation.measures import letter_of, listed
from alphasteer.prompts import Columns, Prompt, PromptSet, read_prompts

Kind = Literal["safety", "over-refusal", "utility"]
Metric = Literal["refusal", "maths", "choice", "identical"]
STARTER_SUITES = ("starter_harmful", "starter_jailbreak", "starter_borderline", "starter_benign")
"""What is measured when no suite is named."""
REPLY_TOKENS: Mapping[Metric, int] = {"refusal": 48, "maths": 400, "choice": 8, "identical": 48}
"""How long replies are, by what is measured on them."""


class SuiteEntry(BaseModel):
    """A suite as YAML states it; ``docs/evaluation.md`` says what each line means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    metric: Metric
    source: str | None = None
    prompt: str | None = None
    answer: str = "answer"
    choices: str = "choices"
    where: dict[str, str] = {}
    template: str = Field("{prompt}", pattern=r"\{prompt\}")


@dataclass(frozen=True)
class Suite:
    """Prompts and what is measured on them.

    Attributes:
        name: as reports call it.
        kind: ``safety`` (refusals wanted), ``over-refusal`` (refusals unwanted) or ``utility``.
        metric: what the suite is for; refusals, coherence and identical replies are counted on every suite.
        prompts: filled into the suite's template.
        left_out: how many more its source holds: duplicates, and questions whose answer is none of their choices.
    """

    name: str
    kind: Kind
    metric: Metric
    prompts: PromptSet
    left_out: int = 0


def built_in_suites() -> dict[str, SuiteEntry]:
    """The suites that ship, by name."""
    text = files(__package__).joinpath("suites.yaml").read_text(encoding="utf-8")
    return _entries(yaml.safe_load(text), "suites.yaml")


def read_suites(text: str) -> list[Suite]:
    """The suites that an option names: ``NAME``, ``NAME=SPEC`` or a YAML file that defines some.

    ``NAME=SPEC`` takes the prompts of a built-in suite from elsewhere, such as a file.

    Raises:
        PromptError: if there is no such suite, it has no source, or its prompts lack an answer that it needs.
    """
    if Path(text).suffix in (".yaml", ".yml"):
        folder = Path(text).parent
        return [_suite(name, entry, entry.source, folder) for name, entry in _file_entries(Path(text)).items()]
    name, _, spec = text.partition("=")
    known = built_in_suites()
    if name not in known:
        raise PromptError(f"There is no suite {name!r}; define it in a YAML file, or choose of {', '.join(known)}.")
    return [_suite(name, known[name], spec or known[name].source)]


def _file_entries(path: Path) -> dict[str, SuiteEntry]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PromptError(f"{path} cannot be read as YAML ({error}); mend it.") from error
    return _entries(content, str(path))


def _entries(content: Any, where: str) -> dict[str, SuiteEntry]:
    if not isinstance(content, dict) or not content:
        raise PromptError(f"{where} defines no suites; write them as NAME: {{kind, metric, source}}.")
    entries = {}
    for name, value in content.items():
        try:
            entries[str(name)] = SuiteEntry.model_validate(value)
        except ValidationError as error:
            line, problem = first_problem(error, "the suite")
            raise PromptError(f"{where}, suite {name!r}: {line}: {problem}.") from error
    return entries


def _suite(name: str, entry: SuiteEntry, source: str | None, folder: Path | None = None) -> Suite:
    if source is None:
        mend = f"give one as {name}=SPEC" if folder is None else "add a line source: SPEC to it"
        raise PromptError(f"The suite {name!r} has no source of its own; {mend}.")
    elsewhere = source != entry.source
    columns = Columns(entry.prompt, entry.answer, entry.choices, entry.where, elsewhere)
    prompts = read_prompts(source, columns, folder)
    needed = {"maths": "answer", "choice": "choices"}.get(entry.metric)
    lacking = next((p for p in prompts if needed and not getattr(p, needed)), None)
    if lacking is not None:
        raise PromptError(f"{source}: prompt {lacking.id!r} has no {needed}, and the suite {name!r} needs it; add it.")
    usable = prompts
    if entry.metric == "choice":
        usable = prompts.where(lambda prompt: letter_of(prompt.answer, prompt.choices) is not None)
        if not len(usable):
            raise PromptError(
                f"{source}: the answer of no prompt is one of its choices; write a letter or a number from 0."
            )
    filled = tuple(_filled(prompt, entry.template) for prompt in usable)
    left_out = prompts.dropped + len(prompts) - len(usable)
    return Suite(name, entry.kind, entry.metric, PromptSet(name, filled, prompts.dropped), left_out)


def _filled(prompt: Prompt, template: str) -> Prompt:
    """The template's ``{choices}`` and ``{prompt}``, in this order: a prompt may itself hold braces."""
    text = template.replace("{choices}", listed(prompt.choices)).replace("{prompt}", prompt.text)
    return replace(prompt, messages=(*prompt.messages[:-1], {**prompt.messages[-1], "content": text}))
