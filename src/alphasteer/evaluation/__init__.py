"""What steering did: the same prompts under every arm, counted with intervals and drawn.

``evaluate`` gives an Outcome a suite; ``results`` turns outcomes into numbers, ``figures`` into pictures.
"""

from alphasteer.evaluation.arms import STEERED, VANILLA, Arms, check_arms, read_arms
from alphasteer.evaluation.evaluating import check_evaluation, evaluate
from alphasteer.evaluation.figures import gate_figure, pca_figure
from alphasteer.evaluation.intervals import bootstrap, sign_test, wilson
from alphasteer.evaluation.judges import Judge, read_judge, verdicts
from alphasteer.evaluation.measures import right_choice, right_number
from alphasteer.evaluation.outcomes import Outcome
from alphasteer.evaluation.results import results
from alphasteer.evaluation.starts import Starts
from alphasteer.evaluation.suites import STARTER_SUITES, Suite, SuiteEntry, built_in_suites, read_suites
from alphasteer.evaluation.tables import headings, markdown_table, table_rows

__all__ = [
    "STARTER_SUITES",
    "STEERED",
    "VANILLA",
    "Arms",
    "Judge",
    "Outcome",
    "Starts",
    "Suite",
    "SuiteEntry",
    "bootstrap",
    "built_in_suites",
    "check_arms",
    "check_evaluation",
    "evaluate",
    "gate_figure",
    "headings",
    "markdown_table",
    "pca_figure",
    "read_arms",
    "read_judge",
    "read_suites",
    "results",
    "right_choice",
    "right_number",
    "sign_test",
    "table_rows",
    "verdicts",
    "wilson",
]
