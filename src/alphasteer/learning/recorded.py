"""The evidence of an earlier fit, gathered again from the artefact's record: what baselines of it learn from."""

from typing import Any

from alphasteer.errors import LearningError
from alphasteer.learning.evidence import Evidence
from alphasteer.learning.examples import Examples, gather
from alphasteer.learning.settings import fit_settings
from alphasteer.prompts import PromptSet, read_prompts, union
from alphasteer.reporting import Reporter
from alphasteer.resuming import Shelf
from alphasteer.steering import Steering


def recorded_evidence(model: Any, tokenizer: Any, steering: Steering, report: Reporter, shelf: Shelf) -> Evidence:
    """The same examples with the same settings as when ``steering`` was fitted.

    Args:
        model, tokenizer: what it was fitted on.
        shelf: where activations and replies are kept; the fit's own holds them all.

    Raises:
        LearningError: if its record names no prompts, or prompts that have changed since.
        PromptError: if a source can no longer be read.
    """
    record = steering.record
    if not {"settings", "prompts"} <= set(record):
        raise LearningError("This steering's record does not say what it was fitted on; fit one with alphasteer fit.")
    settings = fit_settings(record["settings"])
    fitted: dict[str, list[PromptSet]] = {}
    validation: dict[str, list[PromptSet]] = {}
    for side, sources in record["prompts"].items():
        fitted[side] = [read_prompts(of.get("spec", name)) for name, of in sources.items() if of["fit"]]
        validation[side] = [read_prompts(of.get("spec", name)) for name, of in sources.items() if not of["fit"]]
    examples = gather(
        fitted["benign"],
        fitted["malicious"],
        settings,
        report,
        benign_validation=validation["benign"],
        malicious_validation=validation["malicious"],
    )
    _check_unchanged(examples, record["prompts"])
    return Evidence(model, tokenizer, examples, settings, report, shelf, every_layer=True)


def _check_unchanged(examples: Examples, recorded: Any) -> None:
    for side, sources in (("benign", examples.benign), ("malicious", examples.malicious)):
        for source in sources:
            digest = union([source.fit, source.held_out], source.name).digest
            if recorded[side].get(source.name, {}).get("digest") != digest:
                raise LearningError(
                    f"{source.name} no longer holds the prompts that this steering was fitted on; fit it again."
                )
