"""Screening for tests: accepted records in a log, a screener at work, and what must come of it by one plain fold."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np

from ingest_svc.checkpoint import Checkpoint
from ingest_svc.lane import Lane
from ingest_svc.screen import Screen, ScreenSettings
from mesh.codec.catalog import write_catalog
from mesh.codec.log_records import (
    ContextChange,
    ContextKind,
    Screened,
    read_screened,
    write_accepted,
    write_context,
    write_screened,
)
from mesh.codec.stamp import Stamp, write_stamp
from mesh.ports import Clock, Log, Objects, Partition, Record, Stored
from mesh.stages import Progress
from mesh.topics import ACCEPTED, BACKFILL, SCREENED_FROM
from tests.builders import START_US, some_readings
from water.readings import Readings
from water.sites import Sensor
from water.state import State

FIRST = Partition(ACCEPTED, 0)
HOUR_US = START_US
POISON = b"\xff\xff not a record"


async def accept(log: Log, readings: Readings, partition: Partition = FIRST, sequence: int = 1) -> int:
    """The offset of a new accepted record."""
    value = write_accepted("g-1", sequence, "north", HOUR_US, readings)
    return await accept_value(log, value, partition, write_stamp(Stamp("g-1", HOUR_US, len(readings))))


async def accept_value(log: Log, value: bytes, partition: Partition = FIRST, headers: dict[str, str] | None = None) -> int:
    """The offset of a new accepted record of these bytes."""
    return await (await log.append(partition, Record(value, headers or {})))


async def change(log: Log, context: ContextChange, partition: Partition = FIRST) -> int:
    """The offset of a new context record."""
    return await accept_value(log, write_context(context), partition)


def screener(
    log: Log,
    objects: Objects,
    clock: Clock,
    checkpoint_records: int = 2000,
    moved: Callable[[Partition, int], Awaitable[None]] | None = None,
) -> Screen:
    """A Screen of its own."""

    async def nobody_listens(_: Partition, __: int) -> None:
        pass

    settings = ScreenSettings(checkpoint_records=checkpoint_records, most_in_flight=8)
    return Screen(log, objects, clock, Progress("screen"), moved or nobody_listens, settings)


@asynccontextmanager
async def at_work(screen: Screen) -> AsyncIterator[None]:
    """The screener runs inside; its crash is raised at the end, or ends the block."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(screen.run())
        yield
        task.cancel()


async def screened_up_to(log: Log, offset: int, partition: Partition = FIRST) -> None:
    """Waits until the screened partition has the record of this accepted offset."""
    await until(lambda: _has(log, offset, partition))


async def until(holds: Callable[[], Awaitable[bool]], timeout_s: float = 30) -> None:
    """Waits for a condition; TimeoutError when it does not come true."""
    async with asyncio.timeout(timeout_s):
        while not await holds():  # noqa: ASYNC110 - it comes true in the database, which tells nobody
            await asyncio.sleep(0.01)


async def _has(log: Log, offset: int, partition: Partition) -> bool:
    last = await log.last(Partition(SCREENED_FROM[partition.topic], partition.number))
    return last is not None and read_screened(last.record.value).source_offset >= offset


async def everything(log: Log, partition: Partition) -> Sequence[Stored]:
    """All records of a partition that are kept."""
    found: list[Stored] = []
    while batch := await log.read(partition, found[-1].offset + 1 if found else 0, 1000):
        found += batch
    return found


async def screened_values(log: Log, partition: Partition = FIRST) -> list[bytes]:
    """Values of the screened records as a reader takes them: what it has had is dropped, and a hole is an error."""
    had, values = -1, []
    for stored in await everything(log, Partition(SCREENED_FROM[partition.topic], partition.number)):
        screened = read_screened(stored.record.value)
        if screened.source_offset > had:
            assert screened.previous_source_offset == had
            had = screened.source_offset
            values.append(stored.record.value)
    return values


async def folded_values(log: Log, objects: Objects, partition: Partition = FIRST) -> list[bytes]:
    """The values that must be there: one undisturbed fold over the accepted partition, from its start."""
    lane = Lane(Checkpoint(-1, State()), objects, historical=partition.topic == BACKFILL)
    await lane.open()
    return [write_screened((await lane.fold(stored))[0]) for stored in await everything(log, partition)]


async def screened_records(log: Log, partition: Partition = FIRST) -> list[tuple[Screened, dict[str, str]]]:
    """Everything in the screened partition, with its headers."""
    stored = await everything(log, Partition(SCREENED_FROM[partition.topic], partition.number))
    return [(read_screened(one.record.value), dict(one.record.headers)) for one in stored]


async def a_catalog(objects: Objects, version: int, *sensors: Sensor) -> ContextChange:
    """A catalog context whose object is there."""
    content = write_catalog([], sensors)
    path = f"contexts/catalog/{version}"
    await objects.put(path, content)
    return ContextChange(ContextKind.CATALOG, version, path, hashlib.sha256(content).hexdigest())


async def some_accepted(log: Log, count: int, partition: Partition = FIRST, seed: int = 0) -> int:
    """Records of a restless fleet, poison and late readings among them; the last offset."""
    chance = random.Random(seed)
    readings = some_readings(count * 20, 7, seed=seed, period_s=300, absent=0.2)
    readings.values[np.random.default_rng(seed).random(readings.values.shape) < 0.05] *= 1.7
    offset = -1
    for number in range(count):
        if chance.random() < 0.1:
            await accept_value(log, POISON, partition, write_stamp(Stamp("g-1", START_US, 20)))
        start = max(0, number - chance.randrange(3)) * 20
        offset = await accept(log, readings.take(np.arange(start, start + 20)), partition, number)
    return offset
