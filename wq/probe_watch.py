"""Does WatchReadings show what was just written? A watcher that stays connected as long as the probe runs."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from waterquality.v1 import query_pb2, query_pb2_grpc

from mesh.codec.columns import read_flagged
from mesh.errors import Fault, from_rpc
from wq.probe_paths import Written

_CONNECT_S = 10.0
_AGAIN_S = 1.0


@dataclass(slots=True)
class Watching:
    """`newest`: measured time of the newest reading shown, by sensor."""

    newest: dict[int, int] = field(default_factory=dict)
    problem: str = ""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def shows(self, written: Written, within_s: float) -> None:
        """Returns when all of these were shown; raises Fault when they were not in time."""
        try:
            async with asyncio.timeout(within_s), self._changed:
                await self._changed.wait_for(
                    lambda: all(self.newest.get(sensor, 0) >= written.at_us for sensor in written.sensor_ids)
                )
        except TimeoutError:
            because = f": {self.problem}" if self.problem else ""
            raise Fault(f"WatchReadings did not show the readings within {within_s:g} s{because}") from None

    async def run(self, channel: grpc.aio.Channel, sensor_ids: Sequence[int], began: asyncio.Event) -> None:
        """Watches until cancelled, through every break; sets `began` when the first watch stands, or has failed."""
        request = query_pb2.WatchReadingsRequest(filter=query_pb2.ReadingFilter(sensor_ids=sensor_ids))
        while True:
            call = query_pb2_grpc.QueryServiceStub(channel).WatchReadings(request)
            try:
                await call.initial_metadata()
                self.problem = ""
                began.set()
                async for frame in call:
                    await self._take(frame)
                self.problem = "it ended without a word"
            except grpc.aio.AioRpcError as error:
                self.problem = from_rpc(error).message
            finally:
                call.cancel()
                began.set()
            await asyncio.sleep(_AGAIN_S)

    async def _take(self, frame: query_pb2.WatchReadingsResponse) -> None:
        readings = read_flagged(frame.readings)
        async with self._changed:
            for sensor, at_us in zip(readings.sensor_id.tolist(), readings.measured_at_us.tolist(), strict=True):
                self.newest[sensor] = max(at_us, self.newest.get(sensor, 0))
            self._changed.notify_all()


@asynccontextmanager
async def watching(channel: grpc.aio.Channel, sensor_ids: Sequence[int]) -> AsyncIterator[Watching]:
    """Stands, or has failed once, when the block begins; ends with it."""
    found, began = Watching(), asyncio.Event()
    task = asyncio.create_task(found.run(channel, sensor_ids, began))
    try:
        async with asyncio.timeout(_CONNECT_S):
            await began.wait()
    except TimeoutError:
        found.problem = "it could not be opened"
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
