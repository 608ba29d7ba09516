"""What both engines count of the gates, for Prometheus."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram

BUCKETS = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
"""Of gate scores: about 0 on benign prompts; gates open at 1 or not far above."""


class GateMetrics:
    """How the gates read, and how many replies were steered.

    Args:
        registry: where Prometheus finds them; each name may stand in it once.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.scores = Histogram(
            "alphasteer_gate_score",
            "What the gates read where replies start.",
            ("layer",),
            buckets=BUCKETS,
            registry=registry,
        )
        self.replies = Counter(
            "alphasteer_replies", "Replies, by whether a gate opened.", ("opened",), registry=registry
        )

    def count(self, gates: Iterable[tuple[int, float, float]]) -> None:
        """Count one reply.

        Args:
            gates: each gate's layer, score, and how far it opened.
        """
        opened = []
        for layer, score, value in gates:
            self.scores.labels(layer).observe(score)
            opened.append(value > 0)
        if opened:
            self.replies.labels(str(any(opened)).lower()).inc()
