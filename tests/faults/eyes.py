"""What is watched while a fault run lasts: what the mesh says of itself, and how much memory its processes have."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic

import psutil

from tests.faults.asked import is_readable, status_of
from tests.faults.deployment import Deployment
from tests.faults.load import Load

LOOK_S = 1.0
MOST_RSS_MB = 900
RECOVERED_WITHIN_S = 30.0
GIVEN_UP_AFTER_S = 120.0


@dataclass(slots=True)
class Eyes:
    """`said`: when, in monotonic seconds, each problem was first named; `most_mb`: the greatest memory of each program."""

    said: dict[str, float] = field(default_factory=dict)
    most_mb: dict[str, int] = field(default_factory=dict)

    def since(self, from_s: float) -> list[str]:
        """Problems that were first named after that moment."""
        return [problem for problem, at_s in self.said.items() if at_s >= from_s]

    @property
    def too_big(self) -> list[str]:
        """Programs that had more memory than they may."""
        return [f"{name} had {mb} MB" for name, mb in self.most_mb.items() if mb > MOST_RSS_MB]


@asynccontextmanager
async def watching(deployment: Deployment) -> AsyncIterator[Eyes]:
    """Looks once a second while the block runs."""
    eyes = Eyes()

    async def look_at_status() -> None:
        while True:
            _, problems = await status_of(deployment)
            for problem in problems:
                eyes.said.setdefault(problem, monotonic())
            await asyncio.sleep(LOOK_S)

    async def look_at_memory() -> None:
        while True:
            for name, process in deployment.processes().items():
                try:
                    mb = process.memory_info().rss // 2**20
                except psutil.Error:  # it was killed meanwhile
                    continue
                eyes.most_mb[name] = max(mb, eyes.most_mb.get(name, 0))
            await asyncio.sleep(LOOK_S)

    tasks = [asyncio.create_task(look_at_status()), asyncio.create_task(look_at_memory())]
    try:
        yield eyes
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def recovered(deployment: Deployment, load: Load) -> tuple[float, str]:
    """Seconds until every gateway is acknowledged again, no stage names a problem, and what was acknowledged can be read; and
    what is wrong with that: too late, or after two minutes not at all."""
    began_s = monotonic()
    sensors = [load.course.first_sensor(gateway) for gateway in range(load.course.gateways)]
    try:
        await load.gets_through(GIVEN_UP_AFTER_S)
    except AssertionError as error:
        return monotonic() - began_s, str(error)
    positions = load.positions
    while True:
        well, problems = await status_of(deployment)
        if well and await is_readable(deployment, positions, sensors):
            break
        if monotonic() - began_s > GIVEN_UP_AFTER_S:
            return monotonic() - began_s, f"not recovered: {'; '.join(problems) or 'not readable'}"
        await asyncio.sleep(0.2)
    took_s = monotonic() - began_s
    return took_s, f"recovered after {took_s:.0f} s only" if took_s > RECOVERED_WITHIN_S else ""
