"""The artefact in memory: gates, the directions that they drive, and what they were fitted on."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from alphasteer.errors import SteeringError
from alphasteer.models import Fingerprint
from alphasteer.prompts import PromptEnd
from alphasteer.steering.formula import gates_in

if TYPE_CHECKING:
    from alphasteer.steering.attach import Attached

Positions = Literal["reply_start", "prompt"]


@dataclass(frozen=True)
class Gate:
    """Linear read-outs of the residual stream: about 0 on benign activations, high on malicious ones.

    Attributes:
        w: by layer (of that decoder layer's input) one read-out, float32 of shape (d,), or k of them, of shape (k, d),
            each for another kind of malicious prompts; zeros where one does not read a layer. Each is summed over the
            layers, and the largest sum is the gate's score. Of shape (g, k, d) they are g gates in one, whose score is
            the mean of theirs. Of width 2 d they read, beside the stream at the reply start, its mean over the prompt's
            end (see ``prompts.PromptEnd``).
        threshold: the score up to which nothing is pushed; None for the paper's linear gate.
        ceiling: the score from which the push is full; None for the paper's linear gate.
        normalised: it reads h divided by its root mean square, so that its score is a cosine up to a factor.
    """

    w: Mapping[int, Tensor]
    threshold: float | None = None
    ceiling: float | None = None
    normalised: bool = False

    def __post_init__(self) -> None:
        if not self.w:
            raise SteeringError("A gate needs at least one layer to read.")
        if len({w.shape for w in self.w.values()}) != 1 or not 1 <= next(iter(self.w.values())).ndim <= 3:
            raise SteeringError(
                "A gate's read-outs must be of one shape, (width,), (k, width) or (g, k, width), at all its layers."
            )
        if (self.threshold is None) != (self.ceiling is None):
            raise SteeringError("A gate has a threshold and a ceiling, or neither of them.")
        if self.threshold is not None and self.ceiling is not None and not self.threshold < self.ceiling:
            raise SteeringError(f"A gate's threshold ({self.threshold}) must lie below its ceiling ({self.ceiling}).")

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that it reads, lowest first."""
        return tuple(sorted(self.w))

    @property
    def layer(self) -> int:
        """The highest layer that it reads, where it decides."""
        return max(self.w)

    @property
    def width(self) -> int:
        """d, or 2 d where it reads means over the prompt's end too."""
        return next(iter(self.w.values())).shape[-1]

    @property
    def read_outs(self) -> int:
        """k, how many read-outs it has; g k, where it is several gates in one."""
        return next(iter(self.w.values())).shape[:-1].numel()

    @property
    def gates(self) -> int:
        """g, how many gates are in it, whose mean it is."""
        return gates_in(next(iter(self.w.values())))


@dataclass(frozen=True)
class Push:
    """One gate and the refusal directions that it drives.

    Attributes:
        gate: decides how far.
        directions: refusal direction by layer, each float32 of shape (d,); no layer below the gate's.
        strength: factor on the directions; 1 is the full difference between refused and complied.
    """

    gate: Gate
    directions: Mapping[int, Tensor]
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.directions:
            raise SteeringError("A push needs at least one layer to push.")
        if min(self.directions) < self.gate.layer:
            raise SteeringError(
                f"A gate read at layer {self.gate.layer} cannot push layer {min(self.directions)} below."
            )
        vectors = [*self.gate.w.values(), *self.directions.values()]
        flat = all(r.ndim == 1 for r in self.directions.values())
        if not flat or len({len(r) for r in self.directions.values()}) != 1:
            raise SteeringError("The directions of a push must all be vectors of one length.")
        if self.gate.width not in (self.hidden_size, 2 * self.hidden_size):
            raise SteeringError(
                "A gate and its directions must be vectors of one length; only a gate's may be twice as long."
            )
        if self.reads_prompt_end and self.gate.normalised:
            raise SteeringError("A gate that reads means over the prompt's end cannot be normalised.")
        if not all(bool(torch.isfinite(v).all()) for v in vectors):
            raise SteeringError("A gate or a direction holds values that are not finite.")

    @property
    def hidden_size(self) -> int:
        """d, the length of every direction."""
        return len(next(iter(self.directions.values())))

    @property
    def reads_prompt_end(self) -> bool:
        """Whether its gate reads means over the prompt's end, too."""
        return self.gate.width > self.hidden_size


@dataclass(frozen=True)
class Steering:
    """A short list of pushes: the method's default has one, the paper's form one a layer.

    Attributes:
        pushes: in order of their gates' layers.
        reply_start: the token ids after which a reply begins (see ``ChatTemplate.reply_start``).
        positions: ``reply_start`` (default: each reply start is read and pushed, a function of the token prefix
            alone) or ``prompt`` (the paper's: read at the last reply start, pushed at every position up to it;
            only for whole prompts in one forward).
        prompt_end: over which tokens gates read means; None where none does.
        fitted_on: the model and tokenizer it belongs to; None for one made by hand, which is not checked.
        record: how it came about (prompt digests, calibration figures, versions, seed), as plain JSON values.
    """

    pushes: tuple[Push, ...]
    reply_start: tuple[int, ...]
    positions: Positions = "reply_start"
    prompt_end: PromptEnd | None = None
    fitted_on: Fingerprint | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.pushes:
            raise SteeringError("A steering needs at least one push.")
        if not self.reply_start:
            raise SteeringError("A steering needs the token ids of the reply start.")
        if len({vector.shape for push in self.pushes for vector in push.directions.values()}) != 1:
            raise SteeringError("All pushes of a steering must have vectors of one length.")
        if self.reads_prompt_end and (self.prompt_end is None or self.positions == "prompt"):
            raise SteeringError(
                "A gate that reads means over the prompt's end acts at reply starts, and needs to know that end."
            )

    @property
    def hidden_size(self) -> int:
        """d, the length of every vector."""
        return self.pushes[0].hidden_size

    @property
    def reads_prompt_end(self) -> bool:
        """Whether any gate reads means over the prompt's end."""
        return any(push.reads_prompt_end for push in self.pushes)

    @property
    def layers(self) -> tuple[int, ...]:
        """Every layer that is read or pushed."""
        return tuple(sorted({n for p in self.pushes for n in (*p.gate.w, *p.directions)}))

    @property
    def digest(self) -> str:
        """SHA-256 over everything that decides what the steering does: equal digests steer alike."""
        parts = [f"{self.positions} {self.reply_start}"]
        parts += [f"{self.prompt_end}"] if self.reads_prompt_end else []
        for push in self.pushes:
            gate = push.gate
            parts.append(f"{gate.layers} {gate.threshold} {gate.ceiling} {push.strength} {sorted(push.directions)}")
            parts += ["normalised"] if gate.normalised else []
            parts += [f"{gate.read_outs} read-outs"] if gate.read_outs > 1 else []
            parts += [f"{gate.gates} gates"] if gate.gates > 1 else []
        whole = hashlib.sha256("\n".join(parts).encode())
        for push in self.pushes:
            for vectors in (push.gate.w, push.directions):
                for layer in sorted(vectors):
                    whole.update(vectors[layer].detach().float().cpu().numpy().tobytes())
        return whole.hexdigest()

    def scaled(self, factor: float) -> "Steering":
        """The same steering at ``factor`` times its strength."""
        return replace(self, pushes=tuple(replace(p, strength=p.strength * factor) for p in self.pushes))

    def attach(self, model: Any, *, strength: float = 1.0, strict: bool = True) -> "Attached":
        """Steer a Hugging Face model: ``with steering.attach(model): model.generate(...)``, or keep and ``remove()``.

        Args:
            model: a causal language model of transformers, compiled or not, on one device or several.
            strength: a factor on the fitted strength; 0 steers nothing, and can be changed while attached.
            strict: refuse any other model than the one it was fitted on; False allows fine-tunes of it.

        Raises:
            SteeringError: naming in what the model differs.
        """
        from alphasteer.steering.attach import Attached

        return Attached(self, model, strength=strength, strict=strict)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``steering.safetensors``, ``steering.json`` and a model card; see ``steering.files``."""
        from alphasteer.steering.files import save_steering

        save_steering(self, Path(folder))

    @staticmethod
    def from_pretrained(source: str | Path, *, revision: str | None = None) -> "Steering":
        """Read a folder, or a Hub repository, that ``save_pretrained`` or ``push_to_hub`` wrote."""
        from alphasteer.steering.files import load_steering

        return load_steering(source, revision)

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the artefact to ``org/name`` on the Hugging Face Hub; returns the address."""
        from alphasteer.steering.files import upload_steering

        return upload_steering(self, repository, private=private, token=token)
