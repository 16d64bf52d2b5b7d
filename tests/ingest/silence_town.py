"""Gateways and sensors that speak or do not, a silence worker that listens, and time that passes only when it is told to."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncEngine

from ingest_svc.silence import Silence, SilenceTimes
from ingest_svc.silence_state import SilenceSpans
from ingest_svc.silence_tables import create_tables
from mesh import positions, stages
from mesh.adapters.postgres_log import open_postgres_log
from mesh.clock import ManualClock
from mesh.codec.catalog import write_catalog
from mesh.codec.log_records import ContextKind, Screened, write_accepted, write_screened
from mesh.codec.stamp import Stamp, hour_of, write_source, write_stamp
from mesh.codec.tasks import Task, read_task
from mesh.context import Context, publish
from mesh.ports import Log, Objects, Partition, Record
from mesh.shards import open_engine, transaction
from mesh.stages import Heartbeat, Progress
from mesh.topics import ACCEPTED, SCREENED, SILENCE, partition_of
from tests.builders import readings_of
from tests.conftest import FreshDatabase
from tests.ingest.publishing import flag
from water.sites import Sensor

PATIENCE_S = 30.0
STEP_S = 5.0
SPANS = SilenceSpans(gateway_s=60, sensor_least_s=20)
TIMES = SilenceTimes(tick_s=0.05, keep_s=0, away_s=10)
PERIOD_S = 4.0  # five of them: the least span

Batches = Mapping[str, Iterable[int]]
"""Which sensors each gateway brings."""


@dataclass(slots=True)
class Town:
    """Everything a silence worker stands on. `sources`: the last source offset of each partition."""

    log: Log
    objects: Objects
    catalog: AsyncEngine
    clock: ManualClock
    accepting: Heartbeat
    sources: dict[int, int] = field(default_factory=dict)
    is_accepting: bool = True
    is_screening: bool = True
    version: int = 0

    def worker(self) -> Silence:
        return Silence(self.log, self.objects, self.catalog, Progress("silence"), self.clock, SPANS, TIMES)

    async def describe(self, *sensors: int) -> None:
        """From now on these are in service, and watched."""
        self.version += 1
        described = [Sensor(one, "weir", expected_period_s=PERIOD_S, state=1) for one in sensors]
        await publish(Context(ContextKind.CATALOG, self.version, write_catalog([], described)), self.log, self.objects)
        await self._screen_contexts()

    async def speak(self, batches: Batches, region: str = "north") -> None:
        """A batch of each gateway arrives now, and is screened."""
        for gateway, sensors in batches.items():
            number = partition_of(region, gateway, self.log.partition_count)
            now_us = self.clock.now_us()
            readings = readings_of(*[(sensor, now_us, {"ph": 7.0}) for sensor in sensors])
            headers = write_stamp(Stamp(gateway, hour_of(now_us), len(readings)))
            value = write_accepted(gateway, 0, region, now_us, readings)
            offset = await (await self.log.append(Partition(ACCEPTED, number), Record(value, headers)))
            if self.is_screening:
                previous, self.sources[number] = self.sources.get(number, -1), offset
                screened = Screened(gateway, 0, region, now_us, flag(readings), offset, previous)
                record = Record(write_screened(screened), headers | write_source(offset, previous))
                await (await self.log.append(Partition(SCREENED, number), record))

    async def append(self, partition: Partition, value: bytes, headers: dict[str, str]) -> None:
        await (await self.log.append(partition, Record(value, headers)))

    async def pass_time(self, seconds: float, batches: Batches, worker: Silence | None, judged: bool = True) -> None:
        """Time passes in small steps, in each of which these speak; and until the worker has judged each."""
        until_us = self.clock.now_us() + round(seconds * 1e6)
        while self.clock.now_us() < until_us:
            await self.speak(batches)
            self.clock.advance(STEP_S)
            await self._beat()
            if worker is not None:
                await self.judged(worker) if judged else await self.looked()

    async def judged(self, worker: Silence) -> None:
        """What is silent by now is told."""
        now_us = self.clock.now_us()
        async with asyncio.timeout(PATIENCE_S):
            while worker.judged_us < now_us:
                self.clock.advance(0.05)
                await self._beat()
                await asyncio.sleep(0.005)

    async def looked(self) -> None:
        """The worker had time to look several times, for whatever it may see."""
        rounds = 0
        while rounds < 12:
            self.clock.advance(0.05)
            await asyncio.sleep(0.01)
            rounds += 1

    async def told(self) -> list[Task]:
        """Everything in the topic, by partition."""
        found = []
        for number in range(self.log.partition_count):
            for stored in await self.log.read(Partition(SILENCE, number), 0, 10_000):
                assert stored.record.headers == {"conditions": "1"}
                task = read_task(stored.record.value)
                assert number == partition_of(task.region, task.gateway_id, self.log.partition_count)
                found.append(task)
        return found

    async def names(self) -> list[tuple[str, str]]:
        """(change, condition) of everything that was told, without repeats."""
        found = [(task.condition.change.name, task.condition.condition_id.removeprefix("silence/")) for task in await self.told()]
        return list(dict.fromkeys(found))

    async def _beat(self) -> None:
        if self.is_accepting:
            await self.accepting.beat()

    async def _screen_contexts(self) -> None:
        """The empty record that stands for the context in every partition."""
        for number in range(self.log.partition_count):
            last = await self.log.last(Partition(ACCEPTED, number))
            assert last is not None
            nothing = flag(readings_of())
            previous, self.sources[number] = self.sources.get(number, -1), last.offset
            screened = Screened("", 0, "", 0, nothing, last.offset, previous)
            record = Record(write_screened(screened), write_source(last.offset, previous))
            await (await self.log.append(Partition(SCREENED, number), record))


@asynccontextmanager
async def a_town(fresh_database: FreshDatabase, objects: Objects, clock: ManualClock) -> AsyncIterator[Town]:
    """Nobody has spoken yet."""
    url = await fresh_database()
    catalog = open_engine(url, 4)
    try:
        async with transaction(catalog) as connection:
            await positions.create(connection)
            await stages.create(connection)
        for _ in range(2):
            await create_tables(catalog)
        async with open_postgres_log(url, 4, clock) as log:
            accepting = Heartbeat(catalog, [Progress("accept")], "here", clock)
            await accepting.beat()
            yield Town(log, objects, catalog, clock, accepting)
    finally:
        await catalog.dispose()
