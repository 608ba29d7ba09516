"""Every setting of a fit, defined once: for the command line, for ``--config`` files and for the API."""

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from alphasteer.errors import LearningError, first_problem
from alphasteer.learning.gates import NullSpace

Preset = Literal["default", "paper"]

_PAPER = {"null_space": "hard"}


class FitSettings(BaseModel):
    """Settings of a fit; the defaults are the ``default`` preset and fit any chat model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Preset = Field("default", description="default: one gate drives many layers; paper: a gate per layer.")
    starter: bool = Field(True, description="The starter prompts join the given ones, on both sides.")
    contexts: bool = Field(
        True, description="It is learned with half of the prompts in chats, and with the other half, too."
    )
    prompt_end: bool = Field(True, description="It reads the prompt's last tokens too, not the reply start alone.")
    limit: int | None = Field(None, ge=2, description="At most this many prompts of each source, drawn by the seed.")
    characters: int = Field(500_000, ge=1, description="At most so much text of each source, drawn by the seed.")
    held_out: float = Field(
        0.25, gt=0, lt=1, description="Share of each source kept from the fit where a side has no validation prompts."
    )
    gate_layer: int | None = Field(None, ge=0, description="Layer of the gate; chosen by gate quality if not given.")
    layers: str = Field("auto", pattern=r"^(auto|\d+-\d+)$", description="Pushed layers, such as 12-20, or auto.")
    strength: float | None = Field(None, gt=0, description="Factor on the refusal direction; chosen if not given.")
    directions: Literal["refined", "contrast"] = Field(
        "refined",
        description="refined: by gradient, from the contrast's; contrast: as measured (the paper's preset: always).",
    )
    steps: int = Field(40, ge=1, description="Steps of the refinement.")
    null_space: NullSpace = Field("soft", description="soft: penalty on benign energy; hard: the paper's projection.")
    mu: float | None = Field(None, ge=0, description="Weight of the benign moments (soft); chosen if not given.")
    null_share: float = Field(0.6, gt=0, le=1, description="Share of dimensions in the null space (hard).")
    alpha: float = Field(1e-3, gt=0, description="Ridge, in units of the malicious activations' mean energy.")
    benign_budget: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="Share of benign prompts that may be altered; of unseen kinds too, if 5,000 or more are fitted on.",
    )
    source_budget: float = Field(
        0.02, gt=0, lt=1, description="The same for every benign source by itself that has prompts enough."
    )
    ceiling_quantile: float = Field(
        0.05, gt=0, lt=1, description="Quantile of malicious scores where the push is full."
    )
    replies: int = Field(200, ge=8, description="About so many malicious requests are replied to for the contrast.")
    reply_tokens: int = Field(28, ge=4, description="Length of the short replies that are judged while fitting.")
    trials: int = Field(48, ge=0, description="Ways to push that the search tries; 0 leaves it out.")
    minutes: float | None = Field(None, gt=0, description="The search begins no try after so long.")
    windows: int = Field(
        1, ge=0, description="Directions are refined in so many of the search's best windows, and above the gate."
    )
    divergence: float = Field(15.0, gt=0, description="Most nats that altered benign prompts may diverge, on average.")
    probes: int = Field(24, ge=4, description="Held-out requests of a source on which the best pushes are tried.")
    seed: int = Field(0, description="Draws samples; the same seed gives the same steering.")

    @model_validator(mode="before")
    @classmethod
    def _as_the_preset_says(cls, given: Any) -> Any:
        """The preset's values stand in for what is not given."""
        return {**_PAPER, **given} if isinstance(given, dict) and given.get("preset") == "paper" else given

    @model_validator(mode="after")
    def _paper_tries_pushes(self) -> Self:
        """The paper's form knows no refined directions, so that without tries nothing would be left to choose from."""
        if self.preset == "paper" and not self.trials:
            raise ValueError("the paper's preset chooses among tried pushes, so trials must be at least 1")
        return self

    @property
    def refines(self) -> bool:
        """Whether directions are refined: the paper's form is pushed along what was measured."""
        return self.preset == "default" and self.directions == "refined"

    @property
    def window(self) -> tuple[int, int] | None:
        """The pushed layers, first and last, or None for auto."""
        if self.layers == "auto":
            return None
        first, last = map(int, self.layers.split("-"))
        return first, last


def fit_settings(values: dict[str, Any] | None = None) -> FitSettings:
    """Settings from given values.

    Raises:
        LearningError: naming the first setting that is unknown or out of range.
    """
    try:
        return FitSettings(**(values or {}))
    except ValidationError as error:
        name, problem = first_problem(error, "settings")
        raise LearningError(f"Setting {name!r}: {problem}; docs/method.md lists every setting.") from error


def read_config(path: Path | None) -> dict[str, Any]:
    """What a YAML file sets, by name; nothing without a file.

    Raises:
        LearningError: if it cannot be read, or holds no settings.
    """
    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LearningError(f"{path} cannot be read as YAML ({error}); mend it.") from error
    if not isinstance(content, dict | None):
        raise LearningError(f"{path} holds no settings; write lines such as 'limit: 400'.")
    return content or {}
