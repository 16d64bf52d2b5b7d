"""A deployment of its own on the real engines of the run: what `wq up --config` of one test stands on."""

import json
import secrets
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mesh.adapters.s3 import S3Settings
from mesh.adapters.s3_client import make_client
from mesh.settings import Settings, read_settings
from tests.real import RunEngines
from wq.engines.engine_set import EngineSet
from wq.engines.rabbitmq import ask, vhost_path
from wq.engines.state import read_state

SHARDS = 2
PARTITIONS = 4
SLOTS = 8
KINDS = ("kafka", "rabbitmq", "s3", "postgres")


@dataclass(frozen=True, slots=True)
class OnEngines:
    """Topics, databases, queues and a bucket that nobody else has. `file`: its settings."""

    engines: EngineSet
    file: Path
    settings: Settings

    def dsn(self, database: str) -> str:
        """For psycopg and psql: of `catalog`, or of `shard_0` and so on."""
        url = self.settings.catalog_url.get_secret_value()
        if database == "catalog":
            return url
        there, catalog = urlsplit(self.settings.shards[int(database.removeprefix("shard_"))]), urlsplit(url)
        return catalog._replace(netloc=f"{catalog.netloc.rpartition('@')[0]}@{there.netloc}", path=there.path).geturl()

    @property
    def objects(self) -> Path:
        """Where the S3 server keeps the bucket, as plain files."""
        return self.engines.folder / "s3" / "data" / self.settings.s3_bucket

    def tasks_waiting(self) -> int:
        """Conditions in RabbitMQ: waiting, taken and not settled, or to be tried again. Takes a second or two."""
        vhost = urlsplit(self.settings.rabbitmq_url.get_secret_value()).path.removeprefix("/")
        command = [
            str(self.engines.folder / "rabbitmqctl"),
            "-q",
            "list_queues",
            "-p",
            vhost,
            "name",
            "messages",
            "--no-table-headers",
        ]
        out = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode()
        counts = (line.split() for line in out.splitlines())
        return sum(int(count) for name, count in counts if name.startswith("high_priority_queue"))

    def kill_databases(self) -> None:
        """kill -9 for every PostgreSQL of the run, which start again at once."""
        databases = [name for name in self.engines.names if name.startswith("postgres-")]
        for name in databases:
            self.engines.kill9(name)
        for name in databases:
            self.engines.start(name)


def fresh_deployment(run_engines: RunEngines, folder: Path) -> OnEngines:
    """Names for a new one, in settings below `folder`; `wq up` makes what they name. Blocks while engines start."""
    engines = run_engines.need_all()
    found = read_settings(engines.settings_file, {}, {})
    name = secrets.token_hex(4)
    catalog = urlsplit(found.catalog_url.get_secret_value())
    shards = [urlsplit(address)._replace(path=f"/shard_{name}_{number}").geturl() for number, address in _in_turn(found.shards)]
    changed = {
        "kafka_servers": found.kafka_servers,
        "kafka_prefix": f"{name}.",
        "rabbitmq_url": _fresh_vhost(engines, found, name),
        "catalog_url": catalog._replace(path=f"/catalog_{name}").geturl(),
        "shards": shards,
        "s3_endpoint": found.s3_endpoint,
        "s3_bucket": _fresh_bucket(found, name),
        "s3_access_key": found.s3_access_key.get_secret_value(),
        "s3_secret_key": found.s3_secret_key.get_secret_value(),
        "partitions": PARTITIONS,
        "slots": SLOTS,
    }
    file = folder / f"{name}.toml"
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in changed.items()))
    return OnEngines(engines, file, read_settings(file, {}, {}))


Ground = Callable[[Path], OnEngines | None]
"""Makes what a system stands on, in a folder of the test; None: the embedded default."""


def _in_turn(addresses: tuple[str, ...]) -> list[tuple[int, str]]:
    return [(number, addresses[number % len(addresses)]) for number in range(SHARDS)]


def _fresh_vhost(engines: EngineSet, settings: Settings, name: str) -> str:
    url = urlsplit(settings.rabbitmq_url.get_secret_value())
    state = read_state(engines.folder)
    assert state is not None
    http, who = f"http://127.0.0.1:{state.ports['rabbitmq-http']}", (url.username or "", url.password or "")
    rights = {"configure": ".*", "write": ".*", "read": ".*"}
    for path, content in ((vhost_path(name), None), (f"/api/permissions/{name}/{url.username}", rights)):
        status, answer = ask(http, who, "PUT", path, content)
        assert 200 <= status < 300, (path, status, answer)
    return url._replace(path=f"/{name}").geturl()


def _fresh_bucket(settings: Settings, name: str) -> str:
    keys = settings.s3_access_key.get_secret_value(), settings.s3_secret_key.get_secret_value()
    client = make_client(S3Settings(settings.s3_endpoint, settings.s3_bucket, settings.s3_region, *keys))
    try:
        client.create_bucket(Bucket=f"flow-{name}")
    finally:
        client.close()
    return f"flow-{name}"
