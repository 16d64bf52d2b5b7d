"""Faults that come from outside: poison in the Log and in queues, gateways with a week's backlog, resends in any order."""

import asyncio
import random
from collections.abc import Sequence
from time import monotonic

import numpy as np

from mesh.gateway import Gateway, GatewaySettings
from mesh.ports import Partition, Priority, Record
from tests.builders import some_readings
from tests.faults.asked import is_readable
from tests.faults.deployment import Deployment
from tests.faults.fault import Fault, nothing
from tests.faults.load import FLUSH_WITHIN_S, Load, either_of
from tests.faults.truth import BACKFILL, LIVE, storable
from water.readings import Readings

GARBAGE = (b"\xff\xff\xff not a message of ours", b"")
WEEK_GATEWAYS = 100
WEEK_READINGS = 2_016  # of two sensors, every ten minutes of a week
WEEK_US = 7 * 86_400_000_000
RESENT = 60
READABLE_WITHIN_S = 60.0


def poison(topics: Sequence[str], queues: Sequence[Priority] = ()) -> Fault:
    """What cannot be read, in one partition of each of these topics, and in each queue."""

    async def pour(deployment: Deployment, _: Load) -> None:
        async with deployment.log() as log:
            for topic in topics:
                for garbage in GARBAGE:
                    await (await log.append(Partition(topic, log.partition_count - 1), Record(garbage)))
        async with deployment.exchange() as exchange:
            for queue in queues:
                for garbage in GARBAGE:
                    await exchange.publish(queue, garbage, 5)

    name = ", ".join([*topics, *(f"{queue.name.lower()} queue" for queue in queues)])
    return Fault(f"poison in {name}", pour, nothing, 4.0, 2.0)


def a_week_at_once(gateways: int = WEEK_GATEWAYS) -> Fault:
    """So many gateways connect at the same moment, each with what it stored for a week."""

    async def all_at_once(deployment: Deployment, load: Load) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(gateways):
                tasks.create_task(_send_a_week(deployment, load, number))

    return Fault(f"{gateways} gateways reconnect with a week's backlog", all_at_once, nothing, 0.0, 0.0)


async def _send_a_week(deployment: Deployment, load: Load, number: int) -> None:
    name = f"{load.course.region}-week-{number}"
    first = load.course.first_sensor(100 + number) + 20
    readings = some_readings(WEEK_READINGS, [first, first + 1], seed=number, start=load.course.start_us - WEEK_US, period_s=600)
    settings = GatewaySettings(
        either_of(deployment.ingest, number), name, load.course.region, ack_timeout_s=60, close_timeout_s=FLUSH_WITHIN_S
    )
    load.sent.note(name, BACKFILL, readings)
    async with Gateway(settings) as gateway:
        load.gateways[name] = gateway
        await gateway.send_backlog(readings)
        await gateway.flush(FLUSH_WITHIN_S)


def resends(seed: int) -> Fault:
    """All that was acknowledged lately comes again, twice and in any order, by another gateway."""

    async def again(deployment: Deployment, load: Load) -> None:
        parts = [part for number in range(load.course.gateways) for part in _quiet_parts(load, number)]
        await load.gets_through(READABLE_WITHIN_S)  # so all of the parts are acknowledged
        await _readable(deployment, load)  # and stored: none of them comes first by another way
        batches = parts * 2
        random.Random(seed).shuffle(batches)
        name = f"{load.course.region}-again"
        settings = GatewaySettings(either_of(deployment.ingest, 0), name, load.course.region, close_timeout_s=FLUSH_WITHIN_S)
        async with Gateway(settings) as gateway:
            load.gateways[name] = gateway
            for batch in batches:
                await load.hand_over(name, LIVE, batch)
            await gateway.flush(FLUSH_WITHIN_S)

    return Fault("resends, doubled and in any order", again, nothing, 2.0, 1.0)


def _quiet_parts(load: Load, number: int) -> list[Readings]:
    """What a gateway sent last of the sensors whose water has no conditions: another order of it makes none either."""
    parts = load.sent.lanes[load.course.gateway_id(number), LIVE][-RESENT:]
    kept = [part.take(np.flatnonzero((part.sensor_id % 1_000 >= 20) & (part.sensor_id % 1_000 < 30))) for part in parts]
    return [storable(part) for part in kept]


async def _readable(deployment: Deployment, load: Load) -> None:
    positions, deadline_s = load.positions, monotonic() + READABLE_WITHIN_S
    while not await is_readable(deployment, positions, [load.course.first_sensor(0)]):
        assert monotonic() < deadline_s, f"what was acknowledged cannot be read after {READABLE_WITHIN_S:g} s"
        await asyncio.sleep(0.1)
