"""What a push does, at the price of one short forward: the caches hold the prompts up to their reply starts."""

from collections.abc import Sequence
from typing import Any

import torch

from alphasteer.replies import PrefilledPrompts
from alphasteer.steering import Steering


class Surprise:
    """How surprised a pushed model is at refusals of malicious requests."""

    def __init__(self, model: Any, malicious: PrefilledPrompts, refusals: Sequence[Sequence[int]]) -> None:
        """Nothing is run yet.

        Args:
            refusals: the tokens of a refusal for each request.
        """
        self._model, self._malicious, self._refusals = model, malicious, refusals

    @torch.inference_mode()
    def under(self, steering: Steering) -> float:
        """The mean over all tokens, in nats."""
        total = count = 0.0
        with steering.attach(self._model):
            for number, rows in enumerate(self._malicious.batches):
                refusals = [self._refusals[row] for row in rows]
                size = sum(map(len, refusals))
                total += float(self._malicious.surprise(number, refusals)) * size
                count += size
        return total / count


class Divergence:
    """How far a push moves benign prompts whose gate opens: KL(unsteered || steered) of a reply's first token."""

    def __init__(self, model: Any, altered: PrefilledPrompts | None) -> None:
        """Run the unsteered model.

        Args:
            altered: the benign prompts, if there are any.
        """
        self._model, self._altered = model, altered
        self._unsteered = self._odds()

    @torch.inference_mode()
    def under(self, steering: Steering) -> float:
        """The mean over the prompts, in nats; 0 where there are none."""
        with steering.attach(self._model):
            steered = self._odds()
        found = [(was.exp() * (was - now)).sum(-1) for was, now in zip(self._unsteered, steered, strict=True)]
        return float(torch.cat(found).mean()) if found else 0.0

    @torch.inference_mode()
    def _odds(self) -> list[torch.Tensor]:
        if self._altered is None:
            return []
        batches = range(len(self._altered.batches))
        return [self._altered.first_logits(number).log_softmax(-1) for number in batches]
