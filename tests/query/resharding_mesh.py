"""A deployment of several shards whose slots can be moved, a load on it with known content, and what must be true of it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.adapters.postgres_log import open_postgres_log
from mesh.clock import SystemClock
from mesh.errors import WaterError
from mesh.ports import Objects, Partition
from mesh.shard_map import FollowMap, LiveShards, first_map
from mesh.shards import open_engine, spread_owner, transaction
from mesh.stages import Progress
from mesh.topics import ACCEPTED, SCREENED
from query_svc.answer import Answer, Paging
from query_svc.catalog_tables import create_tables
from query_svc.days_leaves import DaySpan
from query_svc.filters import ReadingFilter
from query_svc.freshness import Freshness
from query_svc.ledger_answer import LedgerAnswer
from query_svc.losers_export import LosersExport
from query_svc.places import Places
from query_svc.record import Record
from query_svc.recorded import Recorded
from query_svc.reshard.resharding import Report, Watch
from query_svc.tables import create_catalog_tables, create_shard_tables
from tests.builders import START_US
from tests.query.deployment import Deployment
from tests.query.resharder import Order, Quiet, reshard
from water.parameter import PARAMETERS
from water.readings import Readings

MakeDatabase = Callable[[], Awaitable[str]]
PARTITIONS = 4
MOST_BEHIND_S = 2.0
SAMPLE = 60
NEWEST = 1_000
DUPLICATES, CONFLICTS = 0.05, 0.02
_CLOCK = SystemClock()
_FIELDS = [(parameter.sql_column, "f4") for parameter in PARAMETERS]


@dataclass(slots=True)
class Moving:
    """Shards by the names of their databases, the first of which are in use."""

    deployment: Deployment
    catalog: AsyncEngine
    live: LiveShards
    reads: LiveShards
    names: Sequence[str]
    url_of: Callable[[str], str]
    answer: Answer
    totals: LedgerAnswer
    slots: int

    def order(self, wanted: int, **more: Any) -> Order:
        """To so many shards; 0: abort."""
        return Order(self.url_of(""), {name: self.url_of(name) for name in self.names}, wanted, **more)

    async def reshard(self, wanted: int, watch: Watch | None = None, **more: Any) -> Report:
        """In this process."""
        return await reshard(self.order(wanted, **more), watch or Quiet())

    async def abort(self) -> Report:
        """In this process."""
        return await reshard(self.order(0), Quiet())

    async def shard_rows(self, statement: str) -> dict[int, list[tuple[Any, ...]]]:
        """The answers of every shard of the newest map."""
        found = {}
        for shard, engine in (await self.live.newer()).engines.items():
            async with transaction(engine) as connection:
                found[shard] = [tuple(row) for row in await connection.execute(text(statement))]
        return found

    async def ledger(self) -> Counter[str]:
        """Sums over catalog and shards."""
        statement = "SELECT measure, sum(count)::bigint FROM ledger GROUP BY 1"
        sums: Counter[str] = Counter()
        for rows in [*(await self.shard_rows(statement)).values(), await self.deployment.catalog_rows(statement)]:
            for measure, count in rows:
                sums[measure] += int(count)
        return sums


@asynccontextmanager
async def moving(
    make_database: MakeDatabase, shards: int, spare: int, slots: int, pool: int = 2, days: DaySpan | None = None
) -> AsyncIterator[Moving]:
    """`spare` databases are there, empty, for shards to come. A shard's address is its database's name."""
    catalog_url = await make_database()
    urls = {str(make_url(url).database): url for url in [await make_database() for _ in range(shards + spare)]}
    names = tuple(urls)
    catalog = open_engine(catalog_url, 10)
    await create_catalog_tables(catalog)
    await create_tables(catalog)
    found = await first_map(catalog, spread_owner(slots, shards), names[:shards])
    live, reads = (LiveShards(catalog, found, lambda name: open_engine(urls[name], pool)) for _ in range(2))
    for shard in found.addresses:
        await create_shard_tables(live.now.engines[shard], slots, live.now.slots_of_shard(shard), days)
    try:
        async with open_postgres_log(catalog_url, PARTITIONS, _CLOCK) as log:
            recorded = Recorded(reads, log.log_id)
            deployment = Deployment(log, catalog, live.now, recorded)
            answer = Answer(reads, Places(catalog), recorded, log.log_id)
            totals = LedgerAnswer(log, catalog, reads, recorded, _CLOCK)
            yield Moving(deployment, catalog, live, reads, names, lambda name: urls.get(name, catalog_url), answer, totals, slots)
    finally:
        await live.dispose()
        await reads.dispose()
        await catalog.dispose()


@dataclass(slots=True)
class Load:
    """A writer with a fleet of `sensors`, and what it has put: each reading's row by its key, first come first kept (law 5), the
    keys of each record by partition, and what must become of all."""

    mesh: Moving
    sensors: int = 200
    batch: int = 500
    rows: dict[tuple[int, int], bytes] = field(default_factory=dict)
    records: dict[int, list[NDArray[np.void]]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))
    tick: int = 0

    async def put(self) -> None:
        """One record of the next partition: new readings, and some sent again, the same or with another pH."""
        self.tick += 1
        number = self.tick % PARTITIONS
        mine = np.arange(number + 1, self.sensors * PARTITIONS + 1, PARTITIONS, dtype=np.int64)  # of one gateway: in one order
        sensor = self.random.choice(mine, self.batch)
        at = START_US + self.tick * 10_000_000 + np.arange(self.batch, dtype=np.int64) * 1_000
        values = self.random.random((len(PARAMETERS), self.batch), np.float32) * 10
        values[self.random.random(values.shape) < 0.2] = np.nan
        values[0] = self.random.random(self.batch, np.float32)
        known = self.records.setdefault(number, [])
        if known:
            again = round(self.batch * (DUPLICATES + CONFLICTS))
            old = self.random.choice(known[int(self.random.integers(len(known)))], again, replace=False)
            sensor[:again], at[:again] = old["sensor"], old["at"]
            for row, (name, _) in enumerate(_FIELDS):
                values[row, :again] = old[name]
            values[0, : round(self.batch * CONFLICTS)] += 1
        rows = np.zeros(self.batch, [("sensor", "i8"), ("at", "i8"), *_FIELDS, ("key", "i8")])
        rows["sensor"], rows["at"] = sensor, at
        for row, (name, _) in enumerate(_FIELDS):
            rows[name] = values[row]
        self._expect(rows)
        rows["key"] = _keys(sensor, at)
        readings = Readings(sensor, at, values).with_flags(np.full(self.batch, 0x1111_1111, np.uint64))
        await self.mesh.deployment.put(readings, Partition(SCREENED, number), f"g{number}", f"region-{number}")
        known.append(rows)

    def _expect(self, rows: NDArray[np.void]) -> None:
        for row in rows:
            key, content = (int(row["sensor"]), int(row["at"])), row.tobytes()[:-8]
            kept = self.rows.setdefault(key, content)
            self.counts["stored" if kept is content else "duplicate" if kept == content else "conflicting"] += 1

    async def write_until(self, stop: asyncio.Event, most_behind: int = 10, pause_s: float = 0.05) -> None:
        """Puts records one after the other; where the recorder is behind, slower."""
        while not stop.is_set():
            await self.put()
            if pause_s:
                await asyncio.sleep(pause_s)  # the rate of the load, not a wait for anything
            if self.tick % most_behind == 0:
                await self.mesh.deployment.recorded.wait_for(self.last_put(), MOST_BEHIND_S)

    def last_put(self) -> dict[Partition, int]:
        """Of each partition of accepted."""
        return {Partition(ACCEPTED, place.number): last for place, last in self.mesh.deployment.sources.items()}

    async def must_be_whole(self) -> None:
        """Every reading is in exactly one shard, which owns its slot, as it was put; the ledger has counted each once."""
        await self.mesh.deployment.all_recorded()
        columns = ", ".join(f"coalesce({name}, 'NaN')" for name, _ in _FIELDS)
        at = "(extract(epoch FROM timestamp) * 1000000)::bigint"
        found: dict[tuple[int, int], bytes] = {}
        for rows in (await self.mesh.shard_rows(f"SELECT sensor_id, {at}, {columns} FROM sensor_readings")).values():
            packed = np.array(rows, [("sensor", "i8"), ("at", "i8"), *_FIELDS])
            for row in packed:
                key = int(row["sensor"]), int(row["at"])
                assert key not in found, f"{key} is in two shards"
                found[key] = row.tobytes()
        assert len(found) == len(self.rows), f"{len(self.rows) - len(found)} of {len(self.rows)} readings are lost"
        wrong = [key for key, row in self.rows.items() if _plain(found[key]) != _plain(row)]
        assert not wrong, f"{len(wrong)} readings differ, as {wrong[0]}"
        assert await self.mesh.ledger() == self.counts


@dataclass(slots=True)
class Asking:
    """Readers that compare every answer with what was put: errors and wrong answers, none of which may be."""

    load: Load
    pause_s: float = 0.0
    problems: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    async def ask_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._ask()
            except (WaterError, AssertionError) as error:
                self.problems.append(repr(error))
            await asyncio.sleep(self.pause_s)  # the rate of the questions, not a wait for anything

    async def _ask(self) -> None:
        """Some sensors by name, the newest of all, the ledger: what was recorded before the question is in the answer."""
        answer, load = self.load.mesh.answer, self.load
        sensors = np.unique(load.random.integers(1, load.sensors * PARTITIONS, 20))
        told = await load.mesh.deployment.recorded.offsets()
        recorded = {place.number: offset for place, offset in told.items()}
        must = [rows for number, all_rows in load.records.items() for rows in all_rows[: recorded.get(number, -1) + 1]]
        picked: Sequence[int] = load.random.choice(len(must), min(len(must), SAMPLE), replace=False).tolist() if must else []
        known = np.concatenate([must[number] for number in picked]) if must else np.empty(0, [("sensor", "i8"), ("key", "i8")])
        named = ReadingFilter(sensor_ids=tuple(sensors.tolist()))
        began = asyncio.get_running_loop().time()
        found, _ = await answer.list_readings(named, Paging(10_000), Freshness())
        self.seconds.append(asyncio.get_running_loop().time() - began)
        keys = _keys(found.readings.sensor_id, found.readings.measured_at_us)
        assert len(np.unique(keys)) == len(keys), "a reading came twice"
        missing = np.setdiff1d(known["key"][np.isin(known["sensor"], sensors)], keys)
        assert len(keys) == 10_000 or not len(missing), f"{len(missing)} recorded readings are missing"
        assert np.isin(found.readings.sensor_id, sensors).all()
        sums = await load.mesh.totals.totals()
        assert load.batch * len(must) <= sum(sums.values()) <= sum(load.counts.values()), f"the ledger sums to {sums}"
        newest, _ = await answer.get_latest(ReadingFilter(), Paging(NEWEST), Freshness())
        assert (np.diff(newest.sensor_id) > 0).all(), "a sensor came twice"
        until = newest.sensor_id[-1] if len(newest) == NEWEST else load.sensors * PARTITIONS
        absent = np.setdiff1d(known["sensor"][known["sensor"] <= until], newest.sensor_id)
        assert not len(absent), f"{len(absent)} sensors are missing"


@asynccontextmanager
async def under_load(
    mesh: Moving, load: Load, objects: Objects, readers: int = 2, recorders: int = 1, ask_every_s: float = 0.0, **pace: Any
) -> AsyncIterator[Asking]:
    """Recorders, readers and the writer work during the block; then everything is recorded."""
    asking, stop = Asking(load, ask_every_s), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        export = LosersExport(mesh.live, objects, mesh.deployment.log.log_id, _CLOCK, Progress("losers_export"), 0.2)
        exporting = group.create_task(export.run())
        follow = group.create_task(FollowMap((mesh.live, mesh.reads), Progress("shard_map"), _CLOCK).run())
        recording = [
            group.create_task(Record(mesh.deployment.log, mesh.live, Progress(f"record-{number}")).run())
            for number in range(recorders)
        ]
        writing = group.create_task(load.write_until(stop, **pace))
        reading = [group.create_task(asking.ask_until(stop)) for _ in range(readers)]
        try:
            yield asking
        finally:
            stop.set()
            await asyncio.wait([writing, *reading])
        await mesh.deployment.all_recorded()
        for task in (follow, exporting, *recording):
            task.cancel()


def _keys(sensor: NDArray[np.int64], at_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sensor and time as one number."""
    return (at_us - START_US) * 65_536 + sensor


def _plain(row: bytes) -> bytes:
    """Any NaN as the same one."""
    values = np.frombuffer(row, "f4", offset=16).copy()
    values[np.isnan(values)] = np.nan
    return row[:16] + values.tobytes()
