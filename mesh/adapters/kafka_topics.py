"""The topics of the Log in Kafka: how they are made, what must be true of them, and whose they are."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from uuid import NAMESPACE_URL, uuid5

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType, TopicDescription

from mesh.adapters.kafka_admin import Admin, administration
from mesh.adapters.kafka_clients import RECORD_LIMIT_BYTES, REQUEST_TIMEOUT_S, KafkaSettings
from mesh.adapters.kafka_errors import away, error_of, told, translated
from mesh.errors import SetupError
from mesh.topics import ACCEPTED, BACKFILL, CONTEXTS, DEAD, REFUSED, RESTORED, SCREENED, SCREENED_BACKFILL, SILENCE, TOPICS

# The broker refuses a record that bears a time outside of these when it arrives. So one that lay in the socket of a broker
# that stood still is not stored after it was told as failed, whatever became of the producer: 30 s after its call at the
# latest, with a clock that is 10 s fast. LogAppendTime knows no such limit (tried: what failed was stored a minute later).
OLDEST_S = 20
FASTEST_S = 10
_REACH_S = 10.0
_MAKE_S = 30.0
_LOOK_S = 0.05
_TOO_OLD = "these brokers do not know {}: Kafka 3.6 or newer is needed"
_FENCE = "message.timestamp.before.max.ms"

# Topics that a later version adds are another log's neither: this list never grows.
_IDENTIFYING = (ACCEPTED, BACKFILL, REFUSED, SCREENED, SCREENED_BACKFILL, RESTORED, DEAD, CONTEXTS, SILENCE)


def promised(settings: KafkaSettings) -> dict[str, str]:
    """What the port's promises need of each topic."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": "-1",
        "retention.bytes": "-1",
        "max.message.bytes": str(RECORD_LIMIT_BYTES),
        "min.insync.replicas": str(settings.least_in_sync),
        "unclean.leader.election.enable": "false",
        "message.timestamp.type": "CreateTime",
        _FENCE: str(OLDEST_S * 1000),
        "message.timestamp.after.max.ms": str(FASTEST_S * 1000),
    }


_ON_DISK = {"segment.bytes": str(256 * 2**20), "segment.ms": str(24 * 3600 * 1000)}  # space comes back by whole segments


async def create_topics(settings: KafkaSettings) -> None:
    """All topics are there, and what is promised of them is set; returns once every partition has a leader. Safe to repeat, and
    by several at once; partitions and replicas of a topic that is there are left alone. Raises SetupError."""
    async with administration(settings) as admin:
        await reach(admin, settings)
        there, _ = await described(admin, settings)
        missing = [name for name in TOPICS if name not in there]
        if missing:
            await _create(admin, settings, missing)
        await _wait_for_leaders(admin, settings)
        await _set_promises(admin, settings)


async def check_topics(admin: Admin, settings: KafkaSettings) -> str:
    """The identity of the log. Raises SetupError with everything that is wrong and how to mend it."""
    cluster_id = await reach(admin, settings)
    there, problems = await described(admin, settings)
    if missing := [settings.named(name) for name in TOPICS if name not in there]:
        problems.append(f"topics are missing: {', '.join(missing)}; run `wq migrate`, which makes them")
    for count, names in _grouped({n: len(d.partitions) for n, d in there.items()}, settings):
        if count != settings.partitions:
            problems.append(
                f"{names} has {count} partitions, not {settings.partitions}: set `partitions` back to {count},"
                " or start a new log with another kafka_prefix"
            )
    fewest = {name: min(len(part.replicas) for part in topic.partitions) for name, topic in there.items()}
    for count, names in _grouped(fewest, settings):
        if count < settings.replication:
            problems.append(
                f"{names} has {count} replicas, not {settings.replication}: add some with Kafka's own"
                f" kafka-reassign-partitions.sh, or set kafka_replication to {count}"
            )
    problems += await _broken_promises(admin, settings, list(there))
    if problems:
        raise SetupError(f"the log in Kafka at {settings.servers} cannot be used: {'; '.join(problems)}")
    return identity(cluster_id, there)


def identity(cluster_id: str, there: Mapping[str, TopicDescription]) -> str:
    """The same as long as the topics are the same; made again, a topic is another."""
    return str(uuid5(NAMESPACE_URL, " ".join((cluster_id, *(str(there[name].topic_id) for name in _IDENTIFYING)))))


async def reach(admin: Admin, settings: KafkaSettings) -> str:
    """The cluster's id. Raises SetupError when no broker answers within 10 s, or sooner when it refuses us."""
    asked = {"cluster": admin.client.describe_cluster(request_timeout=_REACH_S)}
    asking = asyncio.ensure_future(admin.answers(asked, _REACH_S + 2))
    try:
        while not asking.done() and not admin.refused:
            await asyncio.wait([asking], timeout=_LOOK_S)
            admin.listen()
        if not asking.done():
            raise SetupError(f"Kafka at {settings.servers} refuses us: {admin.refused}; mend user, password or certificates")
        answer = (await asking)["cluster"]
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    if isinstance(answer, KafkaException):
        raise SetupError(
            f"no Kafka broker answers at {settings.servers} (kafka_servers): {admin.problem or told(answer)};"
            " is it running there, and is the kind of connection (TLS, SASL) the right one?"
        )
    return str(answer.cluster_id)


async def described(admin: Admin, settings: KafkaSettings) -> tuple[dict[str, TopicDescription], list[str]]:
    """Our topics that are there, by our names, and what kept us from seeing others. Raises Unavailable."""
    names = {settings.named(name): name for name in TOPICS}
    asked = admin.client.describe_topics(TopicCollection(list(names)), request_timeout=REQUEST_TIMEOUT_S)
    there, problems = {}, []
    for name, answer in (await admin.answers(asked)).items():
        if not isinstance(answer, KafkaException):
            there[names[name]] = answer
            continue
        error = error_of(answer)
        if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            problems.append(f"we have no rights to topic {name}: give our user Describe, DescribeConfigs, Read, Write and Delete")
        elif error is None or error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise translated(answer)
    return there, problems


async def _create(admin: Admin, settings: KafkaSettings, missing: Sequence[str]) -> None:
    config = promised(settings) | _ON_DISK
    wanted = [NewTopic(settings.named(name), settings.partitions, settings.replication, config=config) for name in missing]
    problems = []
    making = admin.client.create_topics(wanted, operation_timeout=_REACH_S, request_timeout=2 * _REACH_S)
    for name, answer in (await admin.answers(making, _MAKE_S)).items():
        error = error_of(answer) if isinstance(answer, KafkaException) else None
        if error is None or error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            continue
        mend = ""
        if error.code() == KafkaError.INVALID_CONFIG:
            mend = f" ({_TOO_OLD.format(_FENCE)})"
        elif error.code() == KafkaError.INVALID_REPLICATION_FACTOR:
            mend = f" (kafka_replication is {settings.replication}: so many brokers are needed)"
        problems.append(f"topic {name} cannot be made: {told(error)}{mend}")
    if problems:
        raise SetupError("; ".join(problems))


async def _wait_for_leaders(admin: Admin, settings: KafkaSettings) -> None:
    deadline_s = asyncio.get_running_loop().time() + _MAKE_S
    while True:
        there, problems = await described(admin, settings)
        led = all(part.leader is not None for topic in there.values() for part in topic.partitions)
        if problems:
            raise SetupError("; ".join(problems))
        if led and len(there) == len(TOPICS):
            return
        if asyncio.get_running_loop().time() > deadline_s:
            raise away(f"not every partition has a leader {_MAKE_S:.0f} s after the topics were made")
        await asyncio.sleep(_LOOK_S)


async def _settings_of(admin: Admin, settings: KafkaSettings, names: Sequence[str]) -> dict[str, dict[str, str]]:
    asked = [ConfigResource(ResourceType.TOPIC, settings.named(name)) for name in names]
    if not asked:
        return {}
    answers = await admin.answers(admin.client.describe_configs(asked, request_timeout=REQUEST_TIMEOUT_S))
    found = {}
    for resource, answer in answers.items():
        if isinstance(answer, KafkaException):
            raise translated(answer)
        found[resource.name] = {entry.name: str(entry.value) for entry in answer.values()}
    return found


async def _broken_promises(admin: Admin, settings: KafkaSettings, names: Sequence[str]) -> list[str]:
    broken: dict[str, list[str]] = defaultdict(list)
    for topic, found in (await _settings_of(admin, settings, names)).items():
        if _FENCE not in found:
            return [_TOO_OLD.format(_FENCE)]
        for name, value in promised(settings).items():
            if found[name] != value:
                broken[f"has {name} = {found[name]}, not {value}; run `wq migrate`, which sets it"].append(topic)
    return [f"{', '.join(topics)} {problem}" for problem, topics in broken.items()]


async def _set_promises(admin: Admin, settings: KafkaSettings) -> None:
    there, _ = await described(admin, settings)
    replicas = {settings.named(name): len(topic.partitions[0].replicas) for name, topic in there.items()}
    wrong = []
    for topic, found in (await _settings_of(admin, settings, list(there))).items():
        if _FENCE not in found:
            raise SetupError(_TOO_OLD.format(_FENCE))
        wanted = promised(settings)
        if replicas[topic] < settings.least_in_sync:
            del wanted["min.insync.replicas"]  # nothing could be appended any more
        changes = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in wanted.items()
            if found[name] != value
        ]
        if changes:
            wrong.append(ConfigResource(ResourceType.TOPIC, topic, incremental_configs=changes))
    if not wrong:
        return
    setting = admin.client.incremental_alter_configs(wrong, request_timeout=REQUEST_TIMEOUT_S)
    for answer in (await admin.answers(setting)).values():
        if isinstance(answer, KafkaException):
            raise SetupError(f"what is promised of a topic cannot be set: {told(answer)}")


def _grouped(counts: Mapping[str, int], settings: KafkaSettings) -> list[tuple[int, str]]:
    """Each count, with the names of the topics that have it."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, count in counts.items():
        names[count].append(settings.named(name))
    return [(count, f"topic {', '.join(found)}") for count, found in names.items()]
