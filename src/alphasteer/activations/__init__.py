"""Reading the residual stream: activations at reply starts, and their second moments, which merge.

``read_residual_stream`` gives activations of shape (n, d) by layer; ``Moments.of`` sums them up.
"""

from alphasteer.activations.moments import Moments
from alphasteer.activations.reading import TOKEN_BUDGET, read_residual_stream

__all__ = ["TOKEN_BUDGET", "Moments", "read_residual_stream"]
