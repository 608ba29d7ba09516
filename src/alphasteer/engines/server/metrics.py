"""What a server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from alphasteer.engines.gate_metrics import GateMetrics
from alphasteer.engines.server.engine import Engine
from alphasteer.engines.server.jobs import Piece


class Metrics:
    """One server's counters, in a registry of their own."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "alphasteer_requests", "Requests by path and status.", ("path", "status"), registry=self.registry
        )
        self.tokens = Counter("alphasteer_tokens", "Tokens read and written.", ("kind",), registry=self.registry)
        self.gates = GateMetrics(self.registry)
        Gauge("alphasteer_waiting", "Requests that wait for a batch.", registry=self.registry).set_function(
            lambda: engine.waiting
        )

    def count(self, prompt_tokens: int, last: Piece) -> None:
        """Count a reply that has ended."""
        self.tokens.labels("prompt").inc(prompt_tokens)
        self.tokens.labels("completion").inc(last.tokens)
        self.gates.count((gate.layer, gate.score, gate.opened) for gate in last.gates)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
