"""``fit``: what a user gives, made into examples, and the method run on them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from alphasteer.activations import with_self_test
from alphasteer.learning.evidence import Evidence
from alphasteer.learning.examples import gather
from alphasteer.learning.method import Fit
from alphasteer.learning.settings import FitSettings
from alphasteer.prompts import PromptSet, read_prompts
from alphasteer.reporting import LogReporter, Reporter
from alphasteer.resuming import Shelf
from alphasteer.steering import Steering

STARTER = (("starter:benign", "starter:borderline"), ("starter:harmful", "starter:jailbreak"))
"""What joins the given benign and harmful prompts."""

Prompts = PromptSet | str | Iterable[PromptSet | str]
"""A prompt set, a SPEC (see ``read_prompts``), or several of either."""


def fit(
    model: Any,
    tokenizer: Any,
    benign: Prompts = (),
    harmful: Prompts = (),
    *,
    settings: FitSettings | None = None,
    benign_validation: Prompts = (),
    harmful_validation: Prompts = (),
    report: Reporter | None = None,
    work: Path | None = None,
) -> Steering:
    """Learn a steering for a chat model; its weights are not touched.

    The starter prompts join the given ones unless ``settings.starter`` is False: a gate fitted on few kinds of
    prompts opens on kinds that it never saw.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        benign: what must stay as it is. Give every kind that the model is used for: with instructions alone, a
            gate opens on maths. Borderline prompts (sound dangerous, are fine) belong here too.
        harmful: what must be refused: direct requests and jailbreaks.
        settings: how; the defaults fit any model.
        benign_validation, harmful_validation: more prompts to calibrate and choose on, beside those held out.
        report: follows the long steps.
        work: a folder in which the results of long steps are kept, so that an interrupted fit goes on.

    Returns:
        The steering, with the record of how it came about.

    Raises:
        LearningError: if the prompts are too few or of one class, or activations are not finite.
        ModelError: if the model cannot be steered.
        PromptError: if a source cannot be read, or a prompt is longer than the model's context.
    """
    settings, report = settings or FitSettings(), report or LogReporter()
    starter = STARTER if settings.starter else ((), ())
    examples = gather(
        _sets(benign, starter[0]),
        _sets(harmful, starter[1]),
        settings,
        report,
        benign_validation=_sets(benign_validation),
        malicious_validation=_sets(harmful_validation),
    )
    steering = Fit(Evidence(model, tokenizer, examples, settings, report, Shelf(work))).run()
    return with_self_test(model, tokenizer, steering)


def _sets(prompts: Prompts, joining: Sequence[str] = ()) -> list[PromptSet]:
    given = [prompts] if isinstance(prompts, PromptSet | str) else list(prompts)
    items = [*given, *(spec for spec in joining if spec not in given)]
    return [read_prompts(item) if isinstance(item, str) else item for item in items]
