"""Consumers of the Log on Kafka beyond the port: callers that stay away, members that are killed, how much is fetched ahead."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process

import pytest

from mesh.adapters import kafka_fetch, kafka_room
from mesh.adapters.kafka import KafkaSettings, open_kafka_log
from mesh.adapters.kafka_room import TOPIC_BYTES, Room
from mesh.clock import SystemClock
from mesh.ports import Partition, Record, Stored
from mesh.topics import ACCEPTED, BACKFILL
from tests.contract.consuming import Reading, append_all, numbered
from tests.contract.kafka_engine import fresh_topics

ALL = {Partition(ACCEPTED, number) for number in range(4)}
HERE = Partition(ACCEPTED, 1)

_MEMBER = """
import asyncio, sys
from mesh.adapters.kafka import KafkaSettings, open_kafka_log
from mesh.clock import SystemClock
from mesh.ports import Assigned

async def main() -> None:
    settings = KafkaSettings(sys.argv[1], sys.argv[2], 4)
    async with open_kafka_log(settings, SystemClock()) as log, log.consume("g", ["accepted"]) as consumer:
        while True:
            if isinstance(await consumer.next(1), Assigned):
                print("mine", flush=True)

asyncio.run(main())
"""


async def another_member(settings: KafkaSettings) -> Process:
    """Another process that is in the group `g`, once it has its partitions."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _MEMBER, settings.servers, settings.prefix, stdout=PIPE, env={"PYTHONPATH": ".:gen"}
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"mine\n"
    return process


async def step_until_all_are_held(reading: Reading, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while reading.held != ALL:
            await reading.step()


async def test_the_partitions_of_a_killed_process_are_taken_over_when_its_session_has_ended(kafka_servers: str) -> None:
    async with fresh_topics(kafka_servers) as settings:
        process = await another_member(settings)
        async with open_kafka_log(settings, SystemClock()) as log, log.consume("g", [ACCEPTED]) as consumer:
            reading = Reading(consumer)
            await reading.until(lambda: len(reading.held) == 2)
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
            await step_until_all_are_held(reading, kafka_fetch.SESSION_S + 10)


async def test_who_stays_away_for_too_long_loses_its_partitions_and_learns_it_later(
    kafka_servers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_fetch, "SILENT_S", 0.5)
    monkeypatch.setattr(kafka_fetch, "POLL_WITHIN_S", 10)  # no less than a session
    async with fresh_topics(kafka_servers) as settings, open_kafka_log(settings, SystemClock()) as log:
        await append_all(log, HERE, numbered(10))
        async with log.consume("g", [ACCEPTED]) as away, log.consume("g", [ACCEPTED]) as other:
            stays_away, stays = Reading(away), Reading(other)
            while len(stays_away.held) != 2 or len(stays.held) != 2:
                await stays_away.step()
                await stays.step()
            held = set(stays_away.held)
            await step_until_all_are_held(stays, 40)
            assert stays_away.held == held
            await append_all(log, HERE, numbered(10, "later-"))
            await stays_away.until(lambda: set(stays_away.revoked) >= held)
            while not stays_away.held:
                await stays_away.step()
                await stays.step()
            assert stays_away.held.isdisjoint(stays.held)


async def test_a_revoked_partition_is_not_given_to_another_before_the_caller_has_come_back(kafka_servers: str) -> None:
    async with (
        fresh_topics(kafka_servers) as settings,
        open_kafka_log(settings, SystemClock()) as log,
        log.consume("g", [ACCEPTED]) as one,
    ):
        first = Reading(one)
        await first.until(lambda: first.held == ALL)
        async with log.consume("g", [ACCEPTED]) as two:
            second = Reading(two)
            while not first.revoked:
                await first.step()
                await second.step()
            for _ in range(30):  # the caller writes down what it has, and meanwhile nobody else gets them
                await second.step(0.1)
                assert not second.held
            await first.step()
            await second.until(lambda: len(second.held) == 2)


async def test_a_slow_reader_pauses_what_is_full_and_misses_nothing(kafka_servers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_room, "TOPIC_BYTES", 200_000)
    monkeypatch.setattr(kafka_room, "_RESUME_BYTES", 100_000)
    monkeypatch.setattr(kafka_room, "_PATIENCE_S", 0.01)
    values = [value.ljust(1000, b".") for value in numbered(1500)]
    partitions = [Partition(topic, number) for topic in (ACCEPTED, BACKFILL) for number in (0, 3)]
    async with fresh_topics(kafka_servers) as settings, open_kafka_log(settings, SystemClock()) as log:
        await asyncio.gather(*(append_all(log, partition, values) for partition in partitions))
        async with log.consume("g", [ACCEPTED, BACKFILL]) as consumer:
            reading = Reading(consumer)
            async with asyncio.timeout(60):
                while any(len(reading.values[partition]) < len(values) for partition in partitions):
                    await reading.step()
                    await asyncio.sleep(0.03)
        assert all(reading.values[partition] == values for partition in partitions)


async def test_what_lies_beyond_the_end_is_waited_for(kafka_servers: str) -> None:
    async with fresh_topics(kafka_servers) as settings, open_kafka_log(settings, SystemClock()) as log:
        await append_all(log, HERE, numbered(3))
        async with log.consume(None, [ACCEPTED]) as consumer:
            reading = Reading(consumer, dict.fromkeys(ALL, 0) | {HERE: 5})
            await reading.until(lambda: reading.held == ALL)
            assert await consumer.next(0.5) is None
            await append_all(log, HERE, numbered(5, "more-"))
            await reading.until(lambda: len(reading.values[HERE]) == 3)
    assert reading.values[HERE] == [b"more-2", b"more-3", b"more-4"]


def _room_with(held: dict[Partition, int]) -> Room:
    room = Room([ACCEPTED, BACKFILL])
    room.opened(held)
    for partition, size_bytes in held.items():
        if size_bytes:
            room.posted(partition, [Stored(0, Record(bytes(size_bytes)), 0)])
    return room


FIRST, LATER = Partition(ACCEPTED, 0), Partition(BACKFILL, 0)


def test_a_full_topic_is_waited_for_and_paused_only_when_its_reader_is_slow() -> None:
    room = _room_with({FIRST: TOPIC_BYTES, LATER: 1})
    assert room.regulate(0.0) == (set(), set())
    assert room.is_waiting
    assert room.regulate(1.0) == ({FIRST}, set())
    assert not room.is_waiting
    room.taken(FIRST, [Stored(0, Record(bytes(TOPIC_BYTES)), 0)])
    assert room.regulate(1.1) == (set(), {FIRST})


def test_a_full_topic_is_paused_at_once_while_another_may_have_records() -> None:
    room = _room_with({FIRST: TOPIC_BYTES, LATER: 0})
    assert room.may_have_more(BACKFILL)
    assert room.regulate(0.0) == ({FIRST}, set())
    room.at_end(LATER)
    assert not room.may_have_more(BACKFILL)
