"""AlphaSteer: teach an open-weight chat model to refuse malicious requests, without touching its weights."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alphasteer.errors import AlphaSteerError
    from alphasteer.learning import FitSettings, fit, fit_gate
    from alphasteer.models import load_model
    from alphasteer.prompts import Prompt, PromptSet, read_prompts, starter_prompts
    from alphasteer.steering import Gate, Push, Steering

_HOMES = {
    "AlphaSteerError": "errors",
    "FitSettings": "learning",
    "Gate": "steering",
    "Prompt": "prompts",
    "PromptSet": "prompts",
    "Push": "steering",
    "Steering": "steering",
    "fit": "learning",
    "fit_gate": "learning",
    "load_model": "models",
    "read_prompts": "prompts",
    "starter_prompts": "prompts",
}
_ROOMS = ("activations", "evaluation", "learning", "models", "prompts", "replies", "steering")

__version__ = "0.1.0"
__all__ = [
    "AlphaSteerError",
    "FitSettings",
    "Gate",
    "Prompt",
    "PromptSet",
    "Push",
    "Steering",
    "fit",
    "fit_gate",
    "load_model",
    "read_prompts",
    "starter_prompts",
]


def __getattr__(name: str) -> Any:
    """Import a room when one of its names is first asked for: ``import alphasteer`` itself stays instant."""
    if name in _ROOMS:
        return import_module(f"alphasteer.{name}")
    if name in _HOMES:
        return getattr(import_module(f"alphasteer.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'alphasteer' has no attribute {name!r}")
