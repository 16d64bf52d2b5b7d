"""What a process measures of itself: one catalogue of metrics, each with its unit and what to do when it is high."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from mesh.listen import check_address, not_bound
from mesh.stages import Progress


@dataclass(frozen=True, slots=True)
class Metric:
    """One gauge of the catalogue. `name` says the unit; `labels` have few values each, never a sensor or a gateway. `when_high`
    says what to do. Exact counts per gateway and hour are the ledger's business."""

    name: str
    unit: str
    meaning: str
    when_high: str
    labels: tuple[str, ...] = ()


STREAMS = Metric(
    "wq_streams_open", "streams", "Gateway streams that are open.",
    "Near max_streams: raise it, or add a server; gateways beyond it are told to try again.",
)  # fmt: skip
HANDLED = Metric(
    "wq_stage_handled_records", "records", "Records that a stage has handled since its process started.",
    "Good news; a rate of 0 beside a backlog: read the stage's problem in `wq status`.", ("stage",),
)  # fmt: skip
BACKLOG = Metric(
    "wq_stage_backlog_records", "records", "Records waiting for a stage.",
    "Growing: the stage is too slow or away; read its problem in `wq status`.", ("stage",),
)  # fmt: skip
LAG = Metric(
    "wq_stage_lag_seconds", "seconds", "Age of the oldest record waiting for a stage.",
    "More than a few seconds: as for the backlog; answers are that much behind.", ("stage",),
)  # fmt: skip
TROUBLED = Metric(
    "wq_stage_troubled", "0 or 1", "Whether a stage says that it has a problem.",
    "Read it in `wq status` and in the log of the process that runs the stage.", ("stage",),
)  # fmt: skip
LEDGER = Metric(
    "wq_ledger_readings", "readings", "Totals of the ledger, by measure.",
    "High `dead:` measures: readings that no stage could process; read the dead-letter topic.", ("measure",),
)  # fmt: skip

CATALOGUE = (STREAMS, HANDLED, BACKLOG, LAG, TROUBLED, LEDGER)


class Metrics:
    """The metrics of one process. Safe to use from any thread. A metric is shown once it has been fed, so that 0 always means
    measured."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._made: dict[Metric, Gauge] = {}
        self._making = Lock()

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Says how a gauge is now. Raises ValueError for labels that are not the metric's."""
        self._gauge(metric, labels).set(value)

    def read(self, metric: Metric, now: Callable[[], float], **labels: str) -> None:
        """Asks `now` for the gauge whenever somebody looks; it is called on another thread and must not wait."""
        self._gauge(metric, labels).set_function(now)

    def follow(self, progress: Progress) -> None:
        """Shows what a worker says of itself."""
        self.read(HANDLED, lambda: progress.handled_count, stage=progress.stage)
        self.read(TROUBLED, lambda: bool(progress.problem), stage=progress.stage)

    def _gauge(self, metric: Metric, labels: Mapping[str, str]) -> Gauge:
        with self._making:
            if metric not in self._made:
                self._made[metric] = Gauge(metric.name, _help(metric), metric.labels, registry=self.registry)
        return self._made[metric].labels(**labels) if labels else self._made[metric]


@contextmanager
def serve_metrics(metrics: Metrics, host: str, port: int) -> Iterator[int]:
    """Serves the metrics as Prometheus text on a thread while the block runs; gives the port (0 takes a free one). Raises
    SetupError for an address beyond loopback, and for one that cannot be had."""
    check_address(host, encrypted=False)
    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except OSError:
        raise not_bound(host, port, "http_port") from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _help(metric: Metric) -> str:
    return f"{metric.meaning} Unit: {metric.unit}. When high: {metric.when_high}"
