"""Which engines a set consists of, with their ports."""

from pathlib import Path

from wq.engines.engine import Engine
from wq.engines.kafka import KafkaNode
from wq.engines.postgres import CATALOG, PostgresCluster
from wq.engines.rabbitmq import PORTS, RabbitNode
from wq.engines.s3 import S3Server
from wq.engines.state import State

KINDS = ("kafka", "rabbitmq", "s3", "postgres")


def kind_of(name: str) -> str:
    """The kind of an engine: the first word of its name."""
    return name.partition("-")[0]


def engines_of(folder: Path, state: State) -> dict[str, Engine]:
    """By name, those that take longest to start first. Chooses ports that were not chosen yet: write the state afterwards."""
    found: list[Engine] = [*_kafka(folder, state), _rabbitmq(folder, state), _s3(folder, state), *_postgres(folder, state)]
    return {engine.name: engine for engine in found}


def _kafka(folder: Path, state: State) -> list[KafkaNode]:
    numbers = range(1, state.brokers + 1)
    voters = {number: state.port(f"kafka-{number}-controller") for number in numbers}
    nodes = []
    for number in numbers:
        ports = _ports(state, f"kafka-{number}", f"kafka-{number}-controller")
        nodes.append(KafkaNode(folder / f"kafka-{number}", number, state.kafka_cluster, ports, voters))
    return nodes


def _rabbitmq(folder: Path, state: State) -> RabbitNode:
    place = folder / "rabbitmq"
    return RabbitNode(place, state.rabbitmq_node, state.password, _ports(state, *PORTS), folder / "rabbitmqctl")


def _s3(folder: Path, state: State) -> S3Server:
    return S3Server(folder / "s3", state.s3_secret, _ports(state, "s3"))


def _postgres(folder: Path, state: State) -> list[PostgresCluster]:
    databases = {"postgres-catalog": [CATALOG]}
    for number in range(state.clusters):
        names = [f"shard_{shard}" for shard, cluster in enumerate(state.databases) if cluster == number]
        databases[f"postgres-shard-{number}"] = names
    return [
        PostgresCluster(folder, name, state.password, _ports(state, name), names, state.fsync)
        for name, names in databases.items()
    ]


def _ports(state: State, *names: str) -> dict[str, int]:
    return {name: state.port(name) for name in names}
