"""What is wrong with a Kafka is said when the log is opened, all at once, with how to mend it."""

import asyncio
import socket
from dataclasses import replace

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from mesh.adapters import kafka_topics
from mesh.adapters.kafka import KafkaSettings, create_topics, open_kafka_log
from mesh.adapters.kafka_admin import administration
from mesh.clock import SystemClock
from mesh.errors import SetupError
from mesh.topics import ACCEPTED, DEAD, SCREENED
from tests.contract.kafka_engine import delete_topics, fresh_topics


async def problems_of(settings: KafkaSettings) -> str:
    """What opening says."""
    with pytest.raises(SetupError) as problem:
        async with open_kafka_log(settings, SystemClock()):
            pass
    return problem.value.message


async def test_topics_that_were_never_made_are_named_with_the_command_that_makes_them(kafka_servers: str) -> None:
    said = await problems_of(KafkaSettings(kafka_servers, "never-", 4))
    assert "never-accepted" in said
    assert "never-silence" in said
    assert "`wq migrate`" in said


async def test_everything_that_is_wrong_is_said_at_once_and_migrate_mends_what_can_be(kafka_servers: str) -> None:
    async with fresh_topics(kafka_servers) as settings:
        async with administration(settings) as admin:
            wrong = ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET)
            change = ConfigResource(ResourceType.TOPIC, settings.named(DEAD), incremental_configs=[wrong])
            for answer in (await admin.answers(admin.client.incremental_alter_configs([change]))).values():
                assert not isinstance(answer, KafkaException), answer
        gone = settings.named(SCREENED)
        await delete_topics(settings, [SCREENED])
        said = await problems_of(replace(settings, partitions=8))
        assert "has 4 partitions, not 8: set `partitions` back to 4" in said
        assert f"topics are missing: {gone};" in said
        assert f"{settings.named(DEAD)} has retention.ms = 1000, not -1; run `wq migrate`" in said
        assert "has 1 replicas, not 3" in await problems_of(replace(settings, replication=3))
        await create_topics(settings)
        async with open_kafka_log(settings, SystemClock()) as log:
            assert log.partition_count == 4


async def test_topics_are_made_by_two_at_once_and_again(kafka_servers: str) -> None:
    async with fresh_topics(kafka_servers) as settings:
        await delete_topics(settings)
        await asyncio.gather(create_topics(settings), create_topics(settings))
        async with open_kafka_log(settings, SystemClock()) as log:
            log_id = log.log_id
        await create_topics(settings)
        async with open_kafka_log(settings, SystemClock()) as log:
            assert log.log_id == log_id


async def test_more_replicas_than_brokers_are_refused_by_name(kafka_servers: str) -> None:
    with pytest.raises(SetupError, match="kafka_replication is 3: so many brokers are needed"):
        await create_topics(KafkaSettings(kafka_servers, "never-", 4, replication=3))


async def test_no_broker_at_the_address_is_said_within_seconds() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{taken.getsockname()[1]}"
        began_s = asyncio.get_running_loop().time()
        said = await problems_of(KafkaSettings(nowhere))
        assert f"no Kafka broker answers at {nowhere} (kafka_servers)" in said
        assert "refused" in said
        assert asyncio.get_running_loop().time() - began_s < 20


async def test_credentials_that_are_refused_are_named_and_never_shown(kafka_servers: str) -> None:
    security = {
        "security.protocol": "sasl_plaintext",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "wq",
        "sasl.password": "very-secret",
    }
    settings = KafkaSettings(kafka_servers, security=security)
    said = await problems_of(settings)
    assert "refuses us" in said
    assert "very-secret" not in said + repr(settings)


async def test_brokers_that_do_not_know_what_is_promised_are_too_old(kafka_servers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fresh_topics(kafka_servers) as settings:
        monkeypatch.setattr(kafka_topics, "_FENCE", "message.timestamp.of.a.later.version")
        assert "Kafka 3.6 or newer" in await problems_of(settings)
        with pytest.raises(SetupError, match=r"Kafka 3\.6 or newer"):
            await create_topics(replace(settings, prefix="never-"))


async def test_a_topic_of_a_foreign_make_is_refused(kafka_servers: str) -> None:
    async with fresh_topics(kafka_servers) as settings:
        name = settings.named(ACCEPTED)
        await delete_topics(settings, [ACCEPTED])
        async with administration(settings) as admin:
            foreign = NewTopic(name, 4, 1, config={"message.timestamp.type": "LogAppendTime"})
            await admin.answers(admin.client.create_topics([foreign], operation_timeout=5))  # all brokers know it by then
        said = await problems_of(settings)
        assert f"{name} has message.timestamp.type = LogAppendTime, not CreateTime" in said
