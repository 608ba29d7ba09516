"""The model card that travels with an artefact."""

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alphasteer.steering.steering import Steering

_CARD = """---
library_name: alphasteer
tags:
- alphasteer
- activation-steering
- safety
{base_model}---

# AlphaSteer for {name}

Makes {name} refuse malicious requests, jailbreaks included. The weights stay as they are: {what_it_does}

```python
import alphasteer
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{name}")
with alphasteer.Steering.from_pretrained("this folder or repository").attach(model):
    ...  # model.generate as always
```

| gate reads layers | threshold | ceiling | pushed layers | strength |
| --- | --- | --- | --- | --- |
{rows}

## What was measured when it was fitted

```json
{measured}
```

A gate misses some malicious requests and opens on some harmless ones; measure both on your own traffic.
Method: AlphaSteer, Sheng et al., ICLR 2026, arXiv 2506.07022.
"""

_GATED = """one gate reads the
residual stream where a reply starts and, where the request looks malicious, pushes it along the model's own
refusal direction. Below the gate's threshold nothing is pushed and the output is the unsteered model's, bit for bit."""
_PROMPT_END = " The gate also reads the mean of that stream over the last tokens of what the user said."
_LINEAR = """as published, a linear
gate a layer reads every position of the prompt and pushes it along the model's own refusal direction by as much as it
reads. There is no threshold: every prompt is altered, benign ones by little."""


def model_card(steering: "Steering") -> str:
    """The card's Markdown."""
    name = steering.fitted_on.model_id if steering.fitted_on else "a model"
    on_hub = name.count("/") == 1 and not name.startswith((".", "/", "~"))

    def number(value: float | None) -> str:
        return "none" if value is None else f"{value:.3f}"

    rows = "\n".join(
        f"| {', '.join(map(str, p.gate.layers))} | {number(p.gate.threshold)} | {number(p.gate.ceiling)} "
        f"| {', '.join(map(str, sorted(p.directions)))} | {p.strength:g} |"
        for p in steering.pushes
    )
    measured = {key: steering.record[key] for key in ("calibration", "validation", "prompts") if key in steering.record}
    return _CARD.format(
        base_model=f"base_model: {name}\n" if on_hub else "",
        name=name,
        what_it_does=(_LINEAR if steering.positions == "prompt" else _GATED)
        + (_PROMPT_END if steering.reads_prompt_end else ""),
        rows=rows,
        measured=json.dumps(measured, indent=2),
    )
