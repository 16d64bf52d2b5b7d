"""Real engines for the tests: one Kafka, RabbitMQ and S3 for the run, each started when a test first needs it.

Ones that run already are named by WQ_TEST_KAFKA (HOST:PORT), WQ_TEST_RABBITMQ (amqp://USER:PASSWORD@HOST:PORT/) with
WQ_TEST_RABBITMQ_HTTP (http://HOST:PORT of its management plugin), and WQ_TEST_S3 (http://HOST:PORT) with
WQ_TEST_S3_ACCESS_KEY and WQ_TEST_S3_SECRET_KEY.
"""

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import pytest

from mesh.adapters.s3 import S3Settings
from mesh.adapters.s3_client import make_client
from mesh.errors import SetupError
from mesh.settings import Settings, read_settings
from wq.engines import processes
from wq.engines.engine import NotAnswering
from wq.engines.engine_set import EngineSet, start, stop
from wq.engines.rabbitmq import ask, vhost_path
from wq.engines.state import read_state

_PREFIX = "wq-engines-"
_OWNER = "owner.json"
FreshVhost = Callable[[], str]


def cannot_be_had(what: str) -> NoReturn:
    """Skips the test; fails it where WQ_REQUIRE_ENGINES is set (CI)."""
    if os.environ.get("WQ_REQUIRE_ENGINES"):
        pytest.fail(what)
    pytest.skip(what)


@dataclass(slots=True)
class RunEngines:
    """The engines of this run of the tests, in a folder of their own. What could not be had once is not tried again."""

    folder: Path
    _problems: dict[str, str] = field(default_factory=dict)

    def need(self, kind: str) -> EngineSet:
        """Kafka, rabbitmq or s3 runs on return; else the test is skipped or fails."""
        if kind not in self._problems:
            try:
                shards = 0 if read_state(self.folder) is None else None  # what grew for a flow stays
                return start(self.folder, 1, shards, fsync=False, only={kind})
            except SetupError as error:
                self._problems[kind] = error.message
        cannot_be_had(self._problems[kind])

    def need_all(self) -> EngineSet:
        """All of them run on return, with PostgreSQL for the catalog and one cluster for shards; else as `need`."""
        for kind in ("kafka", "rabbitmq", "s3"):
            self.need(kind)
        return start(self.folder, 1, 1, fsync=False)

    def settings(self, kind: str) -> Settings:
        """How the mesh would reach them, this one among them."""
        return read_settings(self.need(kind).settings_file, {}, {})


@pytest.fixture(scope="session")
def run_engines() -> Iterator[RunEngines]:
    """Nothing of it runs before it is needed, and nothing after the tests. What a killed run has left is ended first."""
    _end_those_left_behind()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    folder.chmod(0o711)
    owner = processes.identify(os.getpid())
    assert owner is not None
    (folder / _OWNER).write_text(json.dumps([owner.pid, owner.started]))
    try:
        yield RunEngines(folder)
    finally:
        stop(folder, in_order=False)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def kafka_servers(request: pytest.FixtureRequest) -> str:
    """One broker, as `kafka_servers` of the settings. Tests share it: each needs a prefix of its own."""
    if given := os.environ.get("WQ_TEST_KAFKA"):
        return given
    engines: RunEngines = request.getfixturevalue("run_engines")
    return engines.settings("kafka").kafka_servers


@pytest.fixture(scope="session")
def rabbitmq_server(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The URL for AMQP, of the default virtual host, and the address of the HTTP interface."""
    if given := os.environ.get("WQ_TEST_RABBITMQ"):
        if not (http := os.environ.get("WQ_TEST_RABBITMQ_HTTP")):
            cannot_be_had("WQ_TEST_RABBITMQ without WQ_TEST_RABBITMQ_HTTP, which virtual hosts are made by: set both or none")
        return given, http
    engines: RunEngines = request.getfixturevalue("run_engines")
    url = engines.settings("rabbitmq").rabbitmq_url.get_secret_value()
    state = read_state(engines.folder)
    assert state is not None
    return url, f"http://127.0.0.1:{state.ports['rabbitmq-http']}"


@pytest.fixture
def rabbitmq(request: pytest.FixtureRequest) -> Iterator[FreshVhost]:
    """A function that gives the URL of a new, empty virtual host each time; all are gone after the test. RabbitMQ starts at the
    first call of the run."""
    made: list[str] = []

    def change(method: str, path: str, content: object = None) -> None:
        url, http = request.getfixturevalue("rabbitmq_server")
        parts = urlsplit(url)
        try:
            status, answer = ask(http, (parts.username or "", parts.password or ""), method, path, content)
        except NotAnswering as error:
            pytest.fail(f"RabbitMQ at {http}: {error}")
        assert 200 <= status < 300, (method, path, status, answer)

    def fresh() -> str:
        url, _ = request.getfixturevalue("rabbitmq_server")
        name = f"test_{secrets.token_hex(6)}"
        change("PUT", vhost_path(name))
        made.append(name)
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        change("PUT", f"/api/permissions/{name}/{urlsplit(url).username}", rights)
        return f"{url.rstrip('/')}/{name}"

    yield fresh
    for name in made:
        change("DELETE", vhost_path(name))


@pytest.fixture(scope="session")
def s3_server(request: pytest.FixtureRequest) -> S3Settings:
    """An S3 engine, with a bucket that no test should use."""
    if given := os.environ.get("WQ_TEST_S3"):
        access_key = os.environ.get("WQ_TEST_S3_ACCESS_KEY", "wq")
        return S3Settings(given, "water", "us-east-1", access_key, os.environ.get("WQ_TEST_S3_SECRET_KEY", "wqsecretwq"))
    engines: RunEngines = request.getfixturevalue("run_engines")
    settings = engines.settings("s3")
    keys = settings.s3_access_key.get_secret_value(), settings.s3_secret_key.get_secret_value()
    return S3Settings(settings.s3_endpoint, settings.s3_bucket, settings.s3_region, *keys)


@pytest.fixture
def s3_settings(s3_server: S3Settings) -> Iterator[S3Settings]:
    """A bucket of this test's own, empty, gone after the test."""
    settings = replace(s3_server, bucket=f"test-{secrets.token_hex(6)}")
    client = make_client(s3_server)
    try:
        client.create_bucket(Bucket=settings.bucket)
        yield settings
        for upload in client.list_multipart_uploads(Bucket=settings.bucket).get("Uploads", []):
            client.abort_multipart_upload(Bucket=settings.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=settings.bucket):
            for found in page.get("Contents", []):
                client.delete_object(Bucket=settings.bucket, Key=found["Key"])
        client.delete_bucket(Bucket=settings.bucket)
    finally:
        client.close()


def _end_those_left_behind() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError, ValueError, SetupError):
            if not processes.is_alive(processes.Process(*json.loads((folder / _OWNER).read_text()))):
                stop(folder, in_order=False)
                shutil.rmtree(folder)
