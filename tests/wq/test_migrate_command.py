"""`wq migrate` as a user runs it: all from nothing, then a look, then what is wrong, and no password anywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from confluent_kafka.admin import AdminClient

from mesh.adapters.embedded_postgres import EmbeddedPostgres
from tests.house.tree import ROOT
from tests.wq.migrating import SLOTS, Place, a_place


def wq_migrate(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WQ_")}
    command = [sys.executable, "-m", "wq", "migrate", *words]
    more = {"NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT, env=environment | more, check=False)


def settings_of(place: Place, server: EmbeddedPostgres, kafka: str, folder: Path, prefix: str) -> Path:
    user = server.url("x").removeprefix("postgresql+psycopg://").split(":")[0]
    host = quote(str(server.socket_folder), safe="")
    lines = {
        "kafka_servers": kafka,
        "kafka_prefix": prefix,
        "partitions": 2,
        "rabbitmq_url": "amqp://nobody:nothing@127.0.0.1:1/",
        "catalog_url": f"postgresql://{user}:{quote(server.password)}@/{place.name}_catalog?host={host}",
        "s3_endpoint": "http://127.0.0.1:1",
        "shards": place.shards,
        "slots": SLOTS,
    }
    file = folder / "wq.toml"
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items()))
    return file


async def test_it_makes_all_that_is_missing_and_says_what_it_did(
    postgres_server: EmbeddedPostgres, kafka_servers: str, tmp_path: Path
) -> None:
    prefix = f"migrate-{uuid4().hex[:8]}."
    try:
        async with a_place(postgres_server) as place:
            config = str(settings_of(place, postgres_server, kafka_servers, tmp_path, prefix))
            looked = wq_migrate("--config", config, "--check")
            assert looked.returncode == 1
            assert f"there is no database {place.shards[0]}: run wq migrate" in looked.stdout
            made = wq_migrate("--config", config, "--json")
            assert made.returncode == 0, made.stderr
            names = [database["database"] for database in json.loads(made.stdout)["databases"]]
            assert names == [f"{place.name}_catalog", *place.shards, f"Kafka at {kafka_servers}"]
            there = AdminClient({"bootstrap.servers": kafka_servers}).list_topics(timeout=30).topics
            assert len(there[f"{prefix}accepted"].partitions) == 2
            assert wq_migrate("--config", config, "--check").returncode == 0
            await place.rows("UPDATE schema_version SET version_num = 's999'", place.shards[1])
            failed = wq_migrate("--config", config)
            assert failed.returncode == 1
            assert "s999, which this version does not know" in failed.stdout
            for done in (looked, made, failed):
                assert postgres_server.password not in done.stdout + done.stderr
    finally:
        admin = AdminClient({"bootstrap.servers": kafka_servers})
        ours = [name for name in admin.list_topics(timeout=30).topics if name.startswith(prefix)]
        for deleted in admin.delete_topics(ours).values() if ours else ():
            deleted.result(30)


def test_without_engines_it_says_that_the_embedded_default_needs_it_not() -> None:
    done = wq_migrate()
    assert done.returncode == 1
    assert "the embedded default migrates by itself when `wq up` starts" in done.stderr
