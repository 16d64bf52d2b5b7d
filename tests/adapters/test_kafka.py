"""The Log on Kafka beyond its port: brokers that stand still or die, other topics under the same name, what is left open."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest

from mesh.adapters import kafka_topics, kafka_watch
from mesh.adapters.kafka import KafkaLog, KafkaSettings, create_topics, open_kafka_log
from mesh.adapters.kafka_errors import LOG_AWAY, LOG_REPLACED
from mesh.clock import SystemClock
from mesh.errors import SetupError, Unavailable
from mesh.ports import Log, Partition, Record
from mesh.settings import read_settings
from mesh.topics import ACCEPTED
from tests.contract.consuming import Reading, append_all, numbered
from tests.contract.kafka_engine import delete_topics, fresh_topics
from tests.real import cannot_be_had
from wq.engines.engine_set import EngineSet, running_engines
from wq.engines.programs import find_jars, find_java

HERE = Partition(ACCEPTED, 1)
NODE = "kafka-1"


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[EngineSet]:
    """A broker that this test may break."""
    try:
        find_java()
        find_jars()
    except SetupError as error:
        cannot_be_had(error.message)
    with running_engines(tmp_path / "engines", 1, 0, only={"kafka"}) as engines:
        yield engines


def servers_of(engines: EngineSet) -> str:
    return read_settings(engines.settings_file, {}, {}).kafka_servers


@asynccontextmanager
async def small_log(servers: str, deliver_within_s: float = 20.0) -> AsyncIterator[KafkaLog]:
    """A log of 2 partitions a topic, just made."""
    settings = KafkaSettings(servers, "small-", 2)
    await create_topics(settings)
    async with open_kafka_log(settings, SystemClock(), deliver_within_s=deliver_within_s) as log:
        yield log


async def keep_appending(log: Log, acknowledged: list[bytes], stop: asyncio.Event) -> None:
    """Appends new values, 100 under way at once, and tells which are durable; those behind a failed one never are."""
    number = 0
    while not stop.is_set():
        values = numbered(100, f"{number}-")
        number += 1
        futures = []
        with suppress(Unavailable):
            for value in values:
                futures.append(await log.append(HERE, Record(value)))
        results = await asyncio.gather(*futures, return_exceptions=True)
        done = next((i for i, result in enumerate(results) if not isinstance(result, int)), len(results))
        assert all(isinstance(result, Unavailable) for result in results[done:])
        acknowledged += values[:done]


async def step_for_ever(reading: Reading) -> None:
    while True:
        await reading.step(1)


async def everything_in(log: Log, partition: Partition) -> list[bytes]:
    found: list[bytes] = []
    offset = 0
    while records := await log.read(partition, offset, 10_000):
        found += [stored.record.value for stored in records]
        offset = records[-1].offset + 1
    return found


@pytest.mark.timeout(180)
async def test_a_killed_and_restarted_broker_has_all_that_was_acknowledged_in_order_and_once(own_broker: EngineSet) -> None:
    async with small_log(servers_of(own_broker)) as log, log.consume("g", [ACCEPTED]) as consumer:
        reading = Reading(consumer)
        acknowledged: list[bytes] = []
        stop = asyncio.Event()
        appending = asyncio.ensure_future(keep_appending(log, acknowledged, stop))
        await reading.until(lambda: len(reading.values[HERE]) > 500)
        for _ in range(2):
            before = len(acknowledged)
            await asyncio.to_thread(own_broker.kill9, NODE)
            await asyncio.to_thread(own_broker.start, NODE)
            await reading.until(lambda: len(acknowledged) > before + 500)  # noqa: B023
        stop.set()
        await appending
        await reading.until(lambda: reading.values[HERE][-1] == acknowledged[-1])
        stored = await everything_in(log, HERE)
    assert reading.values[HERE] == stored
    assert len(set(stored)) == len(stored)
    known = set(acknowledged)
    assert [value for value in stored if value in known] == acknowledged


@pytest.mark.timeout(180)
async def test_nothing_that_failed_at_a_broker_that_stood_still_is_stored_when_it_goes_on(
    own_broker: EngineSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_topics, "OLDEST_S", 5)
    async with small_log(servers_of(own_broker), deliver_within_s=3.0) as log:
        acknowledged = numbered(3, "before-")
        await append_all(log, HERE, acknowledged)
        await asyncio.to_thread(own_broker.pause, NODE)
        called_s = asyncio.get_running_loop().time()
        stuck = [await log.append(HERE, Record(value)) for value in numbered(50, "stuck-")]
        for future in stuck:
            with pytest.raises(Unavailable) as failed:
                await future
            assert failed.value.reason == LOG_AWAY
        assert asyncio.get_running_loop().time() - called_s < 8
        until_refused_s = called_s + 7 - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, until_refused_s))  # not waited for: the brokers' limit of 5 s passes by their clock
        await asyncio.to_thread(own_broker.resume, NODE)
        async with asyncio.timeout(30):
            while True:
                with suppress(Unavailable):
                    await append_all(log, HERE, [b"after"])
                    break
        assert await everything_in(log, HERE) == [*acknowledged, b"after"]


@pytest.mark.timeout(180)
async def test_who_waits_is_told_that_kafka_is_away_and_goes_on_when_it_is_back(own_broker: EngineSet) -> None:
    async with small_log(servers_of(own_broker), deliver_within_s=4.0) as log, log.consume("g", [ACCEPTED]) as consumer:
        reading = Reading(consumer)
        await append_all(log, HERE, numbered(5))
        await reading.until(lambda: len(reading.values[HERE]) == 5)
        await asyncio.to_thread(own_broker.pause, NODE)
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable) as away:
            await step_for_ever(reading)
        assert away.value.reason == LOG_AWAY
        assert asyncio.get_running_loop().time() - began_s < 20
        for asking in (log.ends([ACCEPTED]), log.last(HERE), log.read(HERE, 0, 1)):
            with pytest.raises(Unavailable):
                await asking
        await asyncio.to_thread(own_broker.resume, NODE)
        async with asyncio.timeout(30):
            while True:
                with suppress(Unavailable):
                    await append_all(log, HERE, [b"after"])
                    break
        await reading.until(lambda: reading.values[HERE][-1] == b"after")
        last = await log.last(HERE)
        assert last is not None
        assert last.record.value == b"after"


async def test_topics_made_again_are_another_log_and_nothing_is_done_with_them(
    kafka_servers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_watch, "LOOK_S", 0.5)
    async with fresh_topics(kafka_servers) as settings:
        async with open_kafka_log(settings, SystemClock()) as log, log.consume("g", [ACCEPTED]) as consumer:
            reading = Reading(consumer)
            await append_all(log, HERE, numbered(50))
            await reading.until(lambda: len(reading.values[HERE]) == 50)
            old = log.log_id
            await delete_topics(settings)
            await create_topics(settings)
            await _until_replaced(reading)
            for asking in (log.append(HERE, Record(b"mixed")), log.read(HERE, 0, 1), log.last(HERE), consumer.next(1)):
                with pytest.raises(Unavailable, match="not the one that was opened"):
                    await asking
            assert len(reading.values[HERE]) == 50
        async with open_kafka_log(settings, SystemClock()) as log:
            assert log.log_id != old
            assert await log.last(HERE) is None


async def _until_replaced(reading: Reading) -> None:
    """Waits until the log says that it is another; while its topics are missing it may say that it is away."""
    reason = ""
    async with asyncio.timeout(60):
        while reason != LOG_REPLACED:
            with pytest.raises(Unavailable) as away:
                await step_for_ever(reading)
            reason = away.value.reason
            await asyncio.to_thread(lambda: None)  # what is away says so at once: the others need a turn, too
    assert "not the one that was opened" in away.value.message


async def test_a_closed_log_leaves_no_thread_and_no_connection(kafka_servers: str) -> None:
    async with fresh_topics(kafka_servers) as settings:
        await asyncio.to_thread(lambda: None)  # the loop's own
        process = psutil.Process()
        had = process.num_threads(), len(process.net_connections("tcp")), threading.active_count()
        for _ in range(2):
            async with open_kafka_log(settings, SystemClock()) as log:
                await append_all(log, HERE, numbered(10))
                async with log.consume("g", [ACCEPTED]) as member, log.consume(None, [ACCEPTED]) as alone:
                    for consumer in (member, alone):
                        reading = Reading(consumer)
                        await reading.until(lambda: len(reading.values[HERE]) >= 10)  # noqa: B023
                await log.last(HERE)
        now = process.num_threads(), len(process.net_connections("tcp")), threading.active_count()
        assert all(after <= before + 4 for after, before in zip(now, had, strict=True)), (had, now)
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("kafka-")]
