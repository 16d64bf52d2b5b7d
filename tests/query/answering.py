"""A deployment whose shards hold readings, what is stored there as plain columns, and short ways to ask."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mesh.clock import SystemClock
from mesh.ports import Partition
from mesh.stages import Progress
from mesh.topics import SCREENED
from query_svc.answer import Answer
from query_svc.catalog_tables import create_tables
from query_svc.filters import ReadingFilter
from query_svc.freshness import Freshness
from query_svc.places import Places
from query_svc.record import Record
from query_svc.sensors import Sensors
from query_svc.sites import Sites
from tests.builders import some_readings
from tests.query.deployment import Deployment, FreshDatabase, deployed, running
from water import flags as qartod
from water.parameter import PARAMETERS
from water.readings import Readings, concatenate
from water.sites import Sensor, Site

NOW = Freshness()
SENSOR_COUNT = 12


@dataclass(slots=True)
class Answering:
    """Ask `answer`; `stored` is everything that is in the shards, by sensor and time, and `regions` where each came from."""

    deployment: Deployment
    answer: Answer
    places: Places
    sites: Sites
    sensors: Sensors
    parts: list[tuple[Readings, str]] = field(default_factory=list)

    async def store(self, readings: Readings, region: str = "north") -> None:
        """Recorded on return, by the recorder itself."""
        number = len(self.parts) % 4
        await self.deployment.put(readings, Partition(SCREENED, number), region=region)
        self.parts.append((readings, region))
        recorder = Record(self.deployment.log, self.deployment.shards, Progress("record"))
        async with running(recorder.run):
            await self.deployment.all_recorded()

    @property
    def stored(self) -> Readings:
        whole = concatenate([readings for readings, _ in self.parts])
        return whole.take(_order(whole))

    @property
    def regions(self) -> NDArray[np.str_]:
        whole = concatenate([readings for readings, _ in self.parts])
        return np.concatenate([[region] * len(readings) for readings, region in self.parts])[_order(whole)]

    async def put_sensors_at(self, places: dict[str, list[int]]) -> None:
        for site_id, sensor_ids in places.items():
            await self.sites.create(Site(site_id, region="north", source_type=3), "")
            for sensor_id in sensor_ids:
                await self.sensors.create(Sensor(sensor_id, site_id), "")


@asynccontextmanager
async def answering(fresh_database: FreshDatabase) -> AsyncIterator[Answering]:
    """Nothing is stored yet."""
    async with deployed(fresh_database) as deployment:
        await create_tables(deployment.catalog)
        clock = SystemClock()
        places = Places(deployment.catalog)
        answer = Answer(deployment.shards, places, deployment.recorded, deployment.log.log_id)
        yield Answering(deployment, answer, places, Sites(deployment.catalog, clock), Sensors(deployment.catalog, clock))


def random_readings(count: int, seed: int = 1, sensors: int = SENSOR_COUNT, **more: object) -> Readings:
    """With absent values and flags of every kind, as screening gives them."""
    readings = some_readings(count, sensors, seed, absent=0.3, **more)  # type: ignore[arg-type]
    random = np.random.default_rng(seed)
    flags = random.choice(np.array([1, 2, 3, 4], np.uint8), readings.values.shape, p=[0.6, 0.1, 0.1, 0.2])
    return readings.with_flags(qartod.pack(np.where(np.isnan(readings.values), np.uint8(qartod.MISSING), flags)))


def flags_of(readings: Readings) -> NDArray[np.uint8]:
    assert readings.flags is not None
    return qartod.unpack(readings.flags)


def same(left: Readings, right: Readings) -> bool:
    """Bit for bit, flags too."""
    assert left.flags is not None
    assert right.flags is not None
    return (
        left.sensor_id.tolist() == right.sensor_id.tolist()
        and left.measured_at_us.tolist() == right.measured_at_us.tolist()
        and np.array_equal(left.values.view(np.uint32), right.values.view(np.uint32))
        and left.flags.tolist() == right.flags.tolist()
    )


def expected(readings: Readings, asked: ReadingFilter) -> Readings:
    """What a filter on parameters and flags leaves of readings, without those of which nothing is left."""
    values, flags = readings.values.copy(), flags_of(readings)
    for parameter in PARAMETERS:
        row = parameter.number - 1
        unwanted = np.isin(flags[row], asked.without_flags)
        values[row, unwanted], flags[row, unwanted] = np.nan, qartod.MISSING
        if asked.parameters and parameter.number not in asked.parameters:
            values[row], flags[row] = np.nan, 0
    left = Readings(readings.sensor_id, readings.measured_at_us, values, qartod.pack(flags))
    return left.take(np.flatnonzero(~np.isnan(values).all(axis=0)))


def _order(readings: Readings) -> NDArray[np.intp]:
    return np.lexsort((readings.measured_at_us, readings.sensor_id))
