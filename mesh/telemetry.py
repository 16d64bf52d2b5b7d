"""What a process measures of itself: one catalogue of metrics, each with its unit and what to do when it is high."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from mesh.listen import check_address, not_bound
from mesh.stages import Progress


class Kind(Enum):
    """A counter only grows while the process lives; a gauge is how it is now."""

    COUNTER = Counter
    GAUGE = Gauge


@dataclass(frozen=True, slots=True)
class Metric:
    """One entry of the catalogue. `name` says the unit (Prometheus adds `_total` to counters); `labels` have few values each,
    never a sensor or a gateway. `when_high` says what to do."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    when_high: str
    labels: tuple[str, ...] = ()


ACCEPTED = Metric(
    "wq_readings_accepted", Kind.COUNTER, "readings", "Readings handed to the log, by lane.",
    "Good news; compare its rate with that of stored rows.", ("lane",),
)  # fmt: skip
REFUSED = Metric(
    "wq_readings_refused", Kind.COUNTER, "readings", "Readings refused, by RejectionReason.",
    "Read the refused log of the hour: one gateway with a wrong clock or map is the usual cause.", ("reason",),
)  # fmt: skip
SCREENED = Metric(
    "wq_records_screened", Kind.COUNTER, "records", "Records of the log that were screened, by lane.",
    "Good news; compare its rate with that of accepted batches.", ("lane",),
)  # fmt: skip
STORED = Metric(
    "wq_rows_stored", Kind.COUNTER, "rows", "Rows written to a shard.",
    "Good news; when it stands still while readings are accepted, look at the lag of `record`.", ("shard",),
)  # fmt: skip
STREAMS = Metric(
    "wq_streams_open", Kind.GAUGE, "streams", "Gateway streams that are open.",
    "Near max_streams: raise it, or add a server; gateways beyond it are told to try again.",
)  # fmt: skip
IN_FLIGHT = Metric(
    "wq_batches_in_flight", Kind.GAUGE, "batches", "Batches received and not yet durable.",
    "The log is slow: look at its disk. Windows shrink by themselves.",
)  # fmt: skip
HANDLED = Metric(
    "wq_stage_handled_records", Kind.GAUGE, "records", "Records that a stage has handled since its process started.",
    "Good news; a rate of 0 beside a backlog: read the stage's problem in `wq status`.", ("stage",),
)  # fmt: skip
BACKLOG = Metric(
    "wq_stage_backlog_records", Kind.GAUGE, "records", "Records waiting for a stage.",
    "Growing: the stage is too slow or away; read its problem in `wq status`.", ("stage",),
)  # fmt: skip
LAG = Metric(
    "wq_stage_lag_seconds", Kind.GAUGE, "seconds", "Age of the oldest record waiting for a stage.",
    "More than a few seconds: as for the backlog; answers are that much behind.", ("stage",),
)  # fmt: skip
TROUBLED = Metric(
    "wq_stage_troubled", Kind.GAUGE, "0 or 1", "Whether a stage says that it has a problem.",
    "Read it in `wq status` and in the log of the process that runs the stage.", ("stage",),
)  # fmt: skip
LEDGER = Metric(
    "wq_ledger_readings", Kind.GAUGE, "readings", "Totals of the ledger, by measure.",
    "High `dead:` measures: readings that no stage could process; read the dead-letter topic.", ("measure",),
)  # fmt: skip

CATALOGUE = (ACCEPTED, REFUSED, SCREENED, STORED, STREAMS, IN_FLIGHT, HANDLED, BACKLOG, LAG, TROUBLED, LEDGER)


class Metrics:
    """The metrics of one process. Safe to use from any thread; call it per batch, never per reading. A metric is shown once it
    has been fed, so that 0 always means measured."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._made: dict[Metric, Counter | Gauge] = {}
        self._making = Lock()

    def add(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        """Counts something. Raises ValueError for labels that are not the metric's, or a negative amount of a counter."""
        self._child(metric, labels).inc(amount)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Says how a gauge is now."""
        self._gauge(metric, labels).set(value)

    def read(self, metric: Metric, now: Callable[[], float], **labels: str) -> None:
        """Asks `now` for the gauge whenever somebody looks; it is called on another thread and must not wait."""
        self._gauge(metric, labels).set_function(now)

    def follow(self, progress: Progress) -> None:
        """Shows what a worker says of itself."""
        self.read(HANDLED, lambda: progress.handled_count, stage=progress.stage)
        self.read(TROUBLED, lambda: bool(progress.problem), stage=progress.stage)

    @contextmanager
    def during(self, metric: Metric, amount: float = 1.0, **labels: str) -> Iterator[None]:
        """A gauge is greater by `amount` while the block runs."""
        self.add(metric, amount, **labels)
        try:
            yield
        finally:
            self.add(metric, -amount, **labels)

    def _child(self, metric: Metric, labels: Mapping[str, str]) -> Counter | Gauge:
        with self._making:
            if metric not in self._made:
                self._made[metric] = metric.kind.value(metric.name, _help(metric), metric.labels, registry=self.registry)
        return self._made[metric].labels(**labels) if labels else self._made[metric]

    def _gauge(self, metric: Metric, labels: Mapping[str, str]) -> Gauge:
        child = self._child(metric, labels)
        if not isinstance(child, Gauge):
            raise ValueError(f"{metric.name} only grows: use add")
        return child


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
