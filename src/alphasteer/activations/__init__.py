"""Reading the residual stream: activations at reply starts, and their second moments, which merge.

``read_residual_stream`` gives activations of shape (n, d) by layer; ``Moments.of`` sums them up; ``score_prompts``
gives what a steering's gates read, ``with_self_test`` notes what an engine has to read before it serves.
"""

from alphasteer.activations.moments import Moments
from alphasteer.activations.probe import with_self_test
from alphasteer.activations.reading import TOKEN_BUDGET, read_residual_stream
from alphasteer.activations.scoring import GateScores, score_prompts

__all__ = ["TOKEN_BUDGET", "GateScores", "Moments", "read_residual_stream", "score_prompts", "with_self_test"]
