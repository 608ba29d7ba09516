"""What steering did: the same prompts with and without it, counted with intervals and drawn.

``compare`` gives an Outcome a suite; ``suite_results`` turns outcomes into numbers, ``figures`` into pictures.
"""

from alphasteer.evaluation.comparing import Outcome, Pair, compare
from alphasteer.evaluation.figures import gate_figure, pca_figure
from alphasteer.evaluation.intervals import wilson
from alphasteer.evaluation.results import HEADINGS, markdown_table, suite_results, table_rows

__all__ = [
    "HEADINGS",
    "Outcome",
    "Pair",
    "compare",
    "gate_figure",
    "markdown_table",
    "pca_figure",
    "suite_results",
    "table_rows",
    "wilson",
]
