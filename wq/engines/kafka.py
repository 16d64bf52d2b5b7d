"""One Kafka node, broker and controller in one (KRaft), from the jars that `make engines` has copied."""

import logging
import subprocess
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from mesh.errors import SetupError
from wq.engines.engine import NotAnswering, read_version, write_version
from wq.engines.ports import HOST
from wq.engines.processes import Process, end, spawn
from wq.engines.programs import find_jars, find_java
from wq.engines.state import write_private

MESSAGE_BYTES = 4 * 2**20
_HEAP = ("-Xms256m", "-Xmx512m")
_FORMAT_S = 60.0
_PROBE_S = 2.0
_END_S = 30.0
_SILENT = logging.getLogger("wq.engines.kafka.client")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False
_LOGGING = """\
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = {log}
appender.file.filePattern = {log}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d %p %m (%c)%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 8MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 1
"""


@dataclass(slots=True)
class KafkaNode:
    """Node `number` of those in `voters`: number -> controller port."""

    folder: Path
    number: int
    cluster: str
    ports: dict[str, int]
    voters: dict[int, int]

    @property
    def name(self) -> str:
        return f"kafka-{self.number}"

    @property
    def address(self) -> str:
        return f"{HOST}:{self.ports[self.name]}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def launch(self) -> list[Process]:
        java, jars = find_java(), find_jars()
        self.folder.mkdir(mode=0o700, exist_ok=True)
        write_private(self.folder / "server.properties", "".join(f"{key}={value}\n" for key, value in self._settings().items()))
        write_private(self.folder / "log4j2.properties", _LOGGING.format(log=self.log))
        write_version(self.folder, next(jars.glob("kafka_2.13-*.jar")).stem.partition("-")[2])
        command = [java, "-cp", f"{jars}/*", f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"]
        self._format(command)
        return [spawn([*command, *_HEAP, "kafka.Kafka", "server.properties"], self.folder, self.folder / "java.log", {})]

    def probe(self) -> str:
        client = AdminClient({"bootstrap.servers": self.address, "socket.timeout.ms": 2000}, logger=_SILENT)
        try:
            found = client.list_topics(timeout=_PROBE_S).brokers
        except KafkaException as error:
            raise NotAnswering(f"the broker does not answer: {error.args[0].str()}") from None
        if self.number not in found:
            raise NotAnswering(f"the broker is not yet one of the cluster's: {sorted(found)}")
        return f"Kafka {read_version(self.folder)}"

    def furnish(self) -> None:
        """Topics are made by the mesh."""

    def end(self, processes: list[Process]) -> None:
        end(processes, _END_S)

    def _format(self, command: list[str]) -> None:
        """The node's folder belongs to its cluster on return; one that does already is left as it is."""
        words = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", self.cluster, "-c", "server.properties"]
        if (self.folder / "data" / "meta.properties").exists():
            return
        try:
            done = subprocess.run(
                [*command, "-XX:TieredStopAtLevel=1", *words],
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=_FORMAT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SetupError(f"{self.name}: its folder cannot be made ready: {error}") from error
        if done.returncode != 0:
            raise SetupError(f"{self.name}: its folder cannot be made ready:\n  {(done.stdout + done.stderr).strip()[-800:]}")

    def _settings(self) -> dict[str, object]:
        count = len(self.voters)
        most = 2 if count > 1 else 1
        return {
            "process.roles": "broker,controller",
            "node.id": self.number,
            "controller.quorum.voters": ",".join(f"{number}@{HOST}:{port}" for number, port in self.voters.items()),
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{HOST}:{self.voters[self.number]}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": self.folder / "data",
            "auto.create.topics.enable": "false",
            "default.replication.factor": count,
            "min.insync.replicas": most,
            "offsets.topic.replication.factor": count,
            "offsets.topic.num.partitions": 8,
            "transaction.state.log.replication.factor": count,
            "transaction.state.log.min.isr": most,
            "share.coordinator.state.topic.replication.factor": count,
            "share.coordinator.state.topic.min.isr": most,
            "message.max.bytes": MESSAGE_BYTES,
            "replica.fetch.max.bytes": MESSAGE_BYTES,
            "group.min.session.timeout.ms": 6000,
            "group.consumer.min.session.timeout.ms": 6000,
            "group.consumer.session.timeout.ms": 10_000,
            "group.consumer.min.heartbeat.interval.ms": 1000,
            "group.consumer.heartbeat.interval.ms": 3000,
            "group.initial.rebalance.delay.ms": 0,
            "broker.session.timeout.ms": 6000,
            "broker.heartbeat.interval.ms": 1000,
            "leader.imbalance.check.interval.seconds": 30,
        }
