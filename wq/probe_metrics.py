"""What the self-test exports for Prometheus."""

import time
from collections import Counter
from collections.abc import Iterable

from mesh.telemetry import Metric, Metrics
from wq.probe_round import Outcome

LATENCY = Metric(
    "wq_probe_latency_seconds", "seconds", "How long the newest round of the self-test took by a path.",
    "Growing: that path is too slow; read `wq status` and the lag of the stages.", ("path",),
)  # fmt: skip
FAILURES = Metric(
    "wq_probe_failures", "rounds", "Rounds in which a path failed since the probe started.",
    "Growing: readings do not come back by that path; the probe's own line says why.", ("path",),
)  # fmt: skip
LAST_SUCCESS = Metric(
    "wq_probe_last_success_seconds", "seconds since 1970", "When a path was last well.",
    "Good news; alert when it is minutes ago.", ("path",),
)  # fmt: skip
PROBE_CATALOGUE = (LATENCY, FAILURES, LAST_SUCCESS)


class ProbeMetrics:
    """Counts over the life of the probe."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self._failures: Counter[str] = Counter()

    def note(self, outcomes: Iterable[Outcome]) -> None:
        """One round."""
        for outcome in outcomes:
            self._failures[outcome.path] += bool(outcome.problem)
            self.metrics.set(FAILURES, self._failures[outcome.path], path=outcome.path)
            self.metrics.set(LATENCY, outcome.seconds, path=outcome.path)
            if not outcome.problem:
                self.metrics.set(LAST_SUCCESS, time.time(), path=outcome.path)
