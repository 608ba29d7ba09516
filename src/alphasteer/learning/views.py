"""Views: the ways in which the prompts are looked at. The gate that decides is the mean of gates learned from each."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from alphasteer.learning.gate_choice import GateCandidate, combine_layers, mean_read_out
from alphasteer.learning.readings import Examined


@dataclass(frozen=True)
class View:
    """All prompts, as they stand and where they are read.

    Attributes:
        prompts: how they stand: alone, or in chats (see ``Evidence.placings``).
        place: where they are read: the reply start, or the prompt's end.
        examined: their activations there.
        before, after: what gates read has so many columns more on either side of these.
    """

    prompts: str
    place: str
    examined: Examined
    before: int = 0
    after: int = 0


@dataclass(frozen=True)
class LearnedKind:
    """What was learned of one kind of malicious prompts from one view.

    Attributes:
        view: from which.
        number: the kind's, from 1; in every view they are found and numbered anew.
        drawn: by folding, the read-outs of single layers.
    """

    view: View
    number: int
    drawn: list[list[GateCandidate]]

    @cached_property
    def read_out(self) -> GateCandidate:
        """The mean of what every folding makes of its best layers, of all columns that gates read."""
        mean = mean_read_out([combine_layers(singles)[0] for singles in self.drawn])
        return mean.widened(self.view.before, self.view.after)


def views_of(placings: Mapping[str, Examined], width: int, *, prompt_end: bool) -> list[View]:
    """What gates are learned from.

    Args:
        placings: all prompts' activations, by how they stand.
        width: of the model.
        prompt_end: beside those at the reply start stand those of the prompt's end, as many columns again.
    """
    if not prompt_end:
        return [View(prompts, "reply start", examined) for prompts, examined in placings.items()]
    return [
        view
        for prompts, examined in placings.items()
        for view in (
            View(prompts, "reply start", examined.columns(0, width), after=width),
            View(prompts, "prompt end", examined.columns(width, 2 * width), before=width),
        )
    ]
