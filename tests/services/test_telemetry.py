"""What a process says of itself: metrics with help, logs without secrets."""

import io
import json
import logging
import urllib.request
from collections.abc import Iterator

import pytest
import structlog

from mesh.errors import SetupError
from mesh.logs import setup_logs
from mesh.ports import Partition
from mesh.stages import Progress
from mesh.telemetry import (
    CATALOGUE,
    HANDLED,
    LAG,
    LEDGER,
    STREAMS,
    TROUBLED,
    Metrics,
    serve_metrics,
)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What is logged during the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    setup_logs("info", stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_metrics_are_served_as_text_with_unit_and_advice() -> None:
    metrics = Metrics()
    metrics.set(LEDGER, 1000, measure="accepted")
    metrics.set(LAG, 0.25, stage="record")
    metrics.read(STREAMS, lambda: 7)
    with (
        serve_metrics(metrics, "127.0.0.1", 0) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as page,
    ):
        text = page.read().decode()
    assert 'wq_ledger_readings{measure="accepted"} 1000.0' in text
    assert 'wq_stage_lag_seconds{stage="record"} 0.25' in text
    assert "wq_streams_open 7.0" in text
    assert all(f"Unit: {metric.unit}. When high: {metric.when_high}" in text for metric in (LEDGER, LAG, STREAMS))


def test_what_nobody_measures_is_not_shown_as_zero() -> None:
    metrics = Metrics()
    metrics.set(STREAMS, 0)
    assert [family.name for family in metrics.registry.collect()] == [STREAMS.name]


def test_a_worker_is_followed_without_its_doing() -> None:
    metrics, progress = Metrics(), Progress("record")
    metrics.follow(progress)
    progress.covered(Partition("screened", 0), 5, 3)
    progress.problem = "shard 1 is away"
    shown = {name: metrics.registry.get_sample_value(name, {"stage": "record"}) for name in (HANDLED.name, TROUBLED.name)}
    assert shown == {HANDLED.name: 3, TROUBLED.name: 1}


def test_every_metric_says_its_unit_and_what_to_do() -> None:
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)
    assert all(metric.name.startswith("wq_") and metric.meaning.endswith(".") and metric.when_high for metric in CATALOGUE)


def test_a_busy_metrics_port_is_named() -> None:
    with (
        serve_metrics(Metrics(), "127.0.0.1", 0) as port,
        pytest.raises(SetupError, match=f"{port}.*http_port"),
        serve_metrics(Metrics(), "127.0.0.1", port),
    ):
        pass


def test_metrics_are_not_served_to_other_machines() -> None:
    with pytest.raises(SetupError, match="TLS"), serve_metrics(Metrics(), "0.0.0.0", 0):
        pass


def test_labels_must_be_the_metrics_own() -> None:
    with pytest.raises(ValueError, match="label"):
        Metrics().set(LAG, 1, gateway="g-1")


def test_no_metric_counts_by_sensor_or_gateway() -> None:
    assert not {"sensor", "sensor_id", "gateway", "gateway_id"} & {label for metric in CATALOGUE for label in metric.labels}


def test_an_event_is_one_json_line(logged: io.StringIO) -> None:
    structlog.get_logger().info("stored", rows=3)
    logging.getLogger("library").warning("slow %s", "disk")
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [("stored", "info"), ("slow disk", "warning")]
    assert lines[0]["rows"] == 3
    assert lines[0]["timestamp"].endswith("Z")


def test_an_exception_is_logged_with_its_place_and_without_its_password(logged: io.StringIO) -> None:
    try:
        raise ConnectionError("postgresql://wq:hunter2@localhost/shard_0 refused; password=hunter2")
    except ConnectionError:
        structlog.get_logger().exception("worker crashed")
    line = json.loads(logged.getvalue())
    assert "test_telemetry.py" in line["exception"]
    assert "hunter2" not in logged.getvalue()


@pytest.mark.parametrize(
    "fields",
    [
        {"password": "hunter2"},
        {"api_token": "hunter2"},
        {"url": "postgresql+psycopg://wq:hunter2@127.0.0.1:5432/catalog"},
        {"settings": {"db_password": "hunter2", "hosts": ["amqp://guest:hunter2@mq/"]}},
        {"dsn": "host=127.0.0.1 password=hunter2 dbname=catalog"},
    ],
)
def test_a_secret_is_never_logged(logged: io.StringIO, fields: dict[str, object]) -> None:
    structlog.get_logger().warning("connected", **fields)
    logging.getLogger("library").error("failed with %s", fields)
    assert len(logged.getvalue().splitlines()) == 2
    assert "hunter2" not in logged.getvalue()


def test_nothing_below_the_level_is_logged(logged: io.StringIO) -> None:
    structlog.get_logger().debug("detail")
    logging.getLogger("library").debug("detail")
    assert logged.getvalue() == ""
    setup_logs("debug", logged)
    structlog.get_logger().debug("detail")
    assert json.loads(logged.getvalue())["event"] == "detail"
