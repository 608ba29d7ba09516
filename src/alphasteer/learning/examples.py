"""The prompts of a fit, by source: what the gate is fitted on and what is held out to calibrate and choose."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from alphasteer.errors import LearningError
from alphasteer.learning.settings import FitSettings
from alphasteer.prompts import PromptSet, without_shared
from alphasteer.prompts.starter import SPLITS
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
    prompts do, keep to them: ``validation`` is held out and ``test`` left alone. What is held out is held out once,
    and never fitted on: a gate reads lower from prompts that it was fitted on, and a promise made on them is void.

    Raises:
        LearningError: if a side has too few prompts to fit on or to hold out, or a split is unknown.
    """
    sides: list[list[Source]] = []
    fit_benign, fit_malicious, shared = without_shared(
        [*benign, *benign_validation], [*malicious, *malicious_validation]
    )
    if shared:
        report.say(f"{shared} prompts stand among the benign and the malicious ones; they were left out of both.")
    for name, sets, count in (("benign", fit_benign, len(benign)), ("malicious", fit_malicious, len(malicious))):
        dropped = sum(prompts.dropped for prompts in sets)
        if dropped:
            report.say(f"{dropped} duplicate {name} prompts were left out.")
        sources = [_split(prompts, settings, report, whole=len(sets) > count) for prompts in sets[:count]]
        sources += [_validation(prompts, settings, report) for prompts in sets[count:]]
        sources, repeated = _once(sources)
        if repeated:
            report.say(f"{repeated} held-out {name} prompts stand elsewhere too and are not held out there.")
        for source in sources:
            if not len(source.fit) + len(source.held_out):
                report.say(f"No prompt of {source.name} is used: they stand elsewhere, or belong to a test split.")
        for part, fewest in (("fit", FEWEST_FIT), ("held_out", FEWEST_HELD_OUT)):
            have = sum(len(getattr(source, part)) for source in sources)
            if have < fewest:
                verb = "fit on" if part == "fit" else "hold out"
                raise LearningError(
                    f"Only {have} {name} prompts are there to {verb}, at least {fewest} are needed; add more."
                )
        sides.append(sources)
    return _told_apart(*sides)


def _once(sources: Sequence[Source]) -> tuple[list[Source], int]:
    """The sources with every held-out prompt in one place only, and how many were left out for that."""
    seen = {prompt.key for source in sources for prompt in source.fit}
    kept, repeated = [], 0
    for source in sources:
        held_out = source.held_out.where(lambda prompt: prompt.key not in seen)  # noqa: B023 it is called at once
        seen |= {prompt.key for prompt in held_out}
        repeated += len(source.held_out) - len(held_out)
        kept.append(replace(source, held_out=held_out))
    return kept, repeated


def _told_apart(benign: Sequence[Source], malicious: Sequence[Source]) -> Examples:
    """Sources of one name, on whatever side, such as sets made in memory, get a number each."""
    seen: Counter[str] = Counter()

    def named(source: Source) -> Source:
        seen[source.name] += 1
        count = seen[source.name]
        return source if count == 1 else replace(source, name=f"{source.name} ({count})")

    return Examples(tuple(map(named, benign)), tuple(map(named, malicious)))


def _split(prompts: PromptSet, settings: FitSettings, report: Reporter, *, whole: bool) -> Source:
    if _has_splits(prompts):
        fit = _limited(prompts.where(lambda p: p.split == "fit"), settings, report)
        # No limit on how many are held out, since a promise wants a hundred of them.
        return Source(prompts.name, fit, _bounded(prompts.where(lambda p: p.split == "validation"), settings, report))
    limited = _limited(prompts, settings, report)
    if whole:
        return Source(prompts.name, limited, _none_of(prompts))
    return Source(prompts.name, *limited.split(settings.held_out, settings.seed))


def _validation(prompts: PromptSet, settings: FitSettings, report: Reporter) -> Source:
    usable = prompts.where(lambda p: p.split == "validation") if _has_splits(prompts) else prompts
    return Source(prompts.name, _none_of(prompts), _limited(usable, settings, report))


def _has_splits(prompts: PromptSet) -> bool:
    """Whether every prompt says which split it belongs to.

    Raises:
        LearningError: if only some do, or in other words than ``SPLITS``: such prompts would go missing unnoticed.
    """
    found = {prompt.split for prompt in prompts}
    if found <= {""}:
        return False
    if unknown := found - set(SPLITS):
        words = ", ".join(sorted(repr(split) if split else "none" for split in unknown))
        raise LearningError(
            f"{prompts.name} has prompts of split {words}; say {', '.join(SPLITS)} for each, or leave the column out."
        )
    return True


def _none_of(prompts: PromptSet) -> PromptSet:
    return prompts.where(lambda _: False)


def _limited(prompts: PromptSet, settings: FitSettings, report: Reporter) -> PromptSet:
    return _bounded(prompts.limit(settings.limit, settings.seed), settings, report)


def _bounded(prompts: PromptSet, settings: FitSettings, report: Reporter) -> PromptSet:
    if not len(prompts):
        return prompts
    bounded = prompts.limit_text(settings.characters, settings.seed)
    if len(bounded) < len(prompts):
        report.say(
            f"Of {prompts.name} {len(bounded):,} of {len(prompts):,} prompts are read, which hold "
            f"{settings.characters:,} characters (setting characters)."
        )
    return bounded
