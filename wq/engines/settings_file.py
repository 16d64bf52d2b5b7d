"""wq.toml: the settings by which the mesh reaches the engines of a set."""

import json
from collections.abc import Mapping
from pathlib import Path

from mesh.adapters.postgres_cluster import USER
from wq.engines import s3
from wq.engines.engine import Engine
from wq.engines.postgres import CATALOG
from wq.engines.rabbitmq import RabbitNode
from wq.engines.state import State, write_private

PARTITIONS = 64
SLOTS = 320
_HEAD = "# Written by `wq engines up`: how the mesh reaches these engines. Holds passwords.\n"


def write_settings(folder: Path, state: State, engines: Mapping[str, Engine]) -> None:
    """Writes wq.toml anew, for our eyes only."""
    lines = (f"{name} = {json.dumps(value)}\n" for name, value in _settings(state, engines).items())
    write_private(folder / "wq.toml", _HEAD + "".join(lines))


def _settings(state: State, engines: Mapping[str, Engine]) -> dict[str, object]:
    rabbitmq = engines["rabbitmq"]
    assert isinstance(rabbitmq, RabbitNode)
    shards = [
        f"postgresql://{engines[f'postgres-shard-{cluster}'].address}/shard_{number}"
        for number, cluster in enumerate(state.databases)
    ]
    return {
        "kafka_servers": ",".join(engines[f"kafka-{number}"].address for number in range(1, state.brokers + 1)),
        "kafka_replication": state.brokers,
        "rabbitmq_url": rabbitmq.url,
        "catalog_url": f"postgresql://{USER}:{state.password}@{engines['postgres-catalog'].address}/{CATALOG}",
        "shards": shards,
        "s3_endpoint": engines["s3"].address,
        "s3_bucket": s3.BUCKET,
        "s3_region": s3.REGION,
        "s3_access_key": s3.ACCESS_KEY,
        "s3_secret_key": state.s3_secret,
        "partitions": PARTITIONS,
        "slots": SLOTS,
    }
