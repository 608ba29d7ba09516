"""The prompts of a fit, by source: what the gate is fitted on and what is held out to calibrate and choose."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from alphasteer.errors import LearningError
from alphasteer.learning.settings import FitSettings
from alphasteer.prompts import PromptSet, without_shared
from alphasteer.reporting import Reporter

FEWEST_FIT = 16
FEWEST_HELD_OUT = 4


@dataclass(frozen=True)
class Source:
    """One source of prompts, split in two.

    Attributes:
        name: the SPEC it came from.
        fit: what directions and gates are learned from; empty for a source given for validation only.
        held_out: what thresholds are set and layers are chosen on.
    """

    name: str
    fit: PromptSet
    held_out: PromptSet


@dataclass(frozen=True)
class Examples:
    """All sources of a fit: benign ones (borderline included) and malicious ones (jailbreaks included)."""

    benign: tuple[Source, ...]
    malicious: tuple[Source, ...]


def gather(
    benign: Sequence[PromptSet],
    malicious: Sequence[PromptSet],
    settings: FitSettings,
    report: Reporter,
    *,
    benign_validation: Sequence[PromptSet] = (),
    malicious_validation: Sequence[PromptSet] = (),
) -> Examples:
    """Sample and split the sources, and take out what contradicts itself.

    Validation sources are held out whole, and the side's other sources are then fitted on whole; without them every
    source keeps ``settings.held_out`` of its prompts out. Prompts that carry splits of their own, as the starter
    prompts do, keep to them: ``validation`` is held out and ``test`` left alone.

    Raises:
        LearningError: if a side has too few prompts to fit on or to hold out.
    """
    sides = []
    fit_benign, fit_malicious, shared = without_shared(
        [*benign, *benign_validation], [*malicious, *malicious_validation]
    )
    if shared:
        report.say(f"{shared} prompts stand among the benign and the malicious ones; they were left out of both.")
    for name, sets, count in (("benign", fit_benign, len(benign)), ("malicious", fit_malicious, len(malicious))):
        dropped = sum(prompts.dropped for prompts in sets)
        if dropped:
            report.say(f"{dropped} duplicate {name} prompts were left out.")
        validation = [_limited(prompts, settings) for prompts in sets[count:]]
        sources = [_split(prompts, settings, whole=bool(validation)) for prompts in sets[:count]]
        sources += [Source(prompts.name, prompts.where(lambda _: False), prompts) for prompts in validation]
        for part, fewest in (("fit", FEWEST_FIT), ("held_out", FEWEST_HELD_OUT)):
            have = sum(len(getattr(source, part)) for source in sources)
            if have < fewest:
                verb = "fit on" if part == "fit" else "hold out"
                raise LearningError(
                    f"Only {have} {name} prompts are there to {verb}, at least {fewest} are needed; add more."
                )
        sides.append(_told_apart(sources))
    return Examples(*sides)


def _told_apart(sources: Sequence[Source]) -> tuple[Source, ...]:
    """Sources of one name, such as sets made in memory, get a number each."""
    seen: Counter[str] = Counter()
    named = []
    for source in sources:
        seen[source.name] += 1
        count = seen[source.name]
        named.append(source if count == 1 else replace(source, name=f"{source.name} ({count})"))
    return tuple(named)


def _split(prompts: PromptSet, settings: FitSettings, *, whole: bool) -> Source:
    if any(prompt.split for prompt in prompts):
        fit = _limited(prompts.where(lambda p: p.split == "fit"), settings)
        return Source(prompts.name, fit, prompts.where(lambda p: p.split == "validation"))
    limited = _limited(prompts, settings)
    if whole:
        return Source(prompts.name, limited, prompts.where(lambda _: False))
    return Source(prompts.name, *limited.split(settings.held_out, settings.seed))


def _limited(prompts: PromptSet, settings: FitSettings) -> PromptSet:
    limited = prompts.limit(settings.limit, settings.seed)
    return limited.limit_text(settings.characters, settings.seed) if len(limited) else limited
