"""The report: one HTML file with the table, the trade-off, what the gate sees and every reply, to open anywhere.

``render_report(found, outcomes, arms)`` gives its text; it needs no network and no library.
"""

from alphasteer.evaluation.report.rendering import places, render_report

__all__ = ["places", "render_report"]
