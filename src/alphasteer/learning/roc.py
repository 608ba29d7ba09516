"""How well scores separate two sides: areas under the ROC curve."""

import torch
from torch import Tensor

from alphasteer.learning.crossing import Scores


def area_under_roc(low: Tensor, high: Tensor, up_to: float | None = None) -> float:
    """The area under the ROC curve of scores that ought to be low and scores that ought to be high.

    Args:
        low, high: the scores, of shape (n,) and (m,).
        up_to: of the curve up to this share of false openings only, standardized (McClish); None for the whole area.
    """
    from sklearn.metrics import roc_auc_score

    labels = torch.cat([torch.zeros(len(low)), torch.ones(len(high))])
    return float(roc_auc_score(labels.numpy(), torch.cat([low, high]).numpy(), max_fpr=up_to))


def mean_area(benign: Scores, malicious: Scores, up_to: float | None = None) -> float:
    """``area_under_roc`` averaged over all pairs of a benign and a malicious source."""
    areas = [area_under_roc(low, high, up_to) for low in benign.values() for high in malicious.values()]
    return sum(areas) / len(areas)
