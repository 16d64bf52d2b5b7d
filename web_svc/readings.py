"""How do the newest readings of the sensors come to the page?"""

from typing import Any

from google.protobuf.duration_pb2 import Duration
from waterquality.v1 import query_pb2, query_pb2_grpc, reading_pb2

from mesh.codec.columns import read_flagged
from mesh.ports import Clock
from water import flags as qartod
from water.parameter import PARAMETERS
from web_svc.board import Board, Part
from web_svc.numbers import pacing
from web_svc.places import MOST_SENSORS, Places
from web_svc.source import CALL_S, Say
from web_svc.words import decimals, write

INTERVAL_MS = 100
STORED_FIRST_S = 1.0
STORED_EVERY_S = 5.0
PAGE = 1_000
_DECIMALS = [decimals(parameter) + 1 for parameter in PARAMETERS]


class LatestReadings:
    """What comes, and what is stored; of each sensor on the page the newest. The live picture may lose a frame: what is stored is
    read again and again, so that a value that never comes again is not missed for long."""

    def __init__(self, query: "query_pb2_grpc.QueryServiceAsyncStub", places: Places, board: Board, clock: Clock) -> None:
        self._query = query
        self._places = places
        self._board = board
        self._clock = clock
        self._newest_us: dict[int, int] = {}

    def newest_us(self, sensor_id: int) -> int | None:
        """When the newest reading of a sensor was measured, as far as is known."""
        return self._newest_us.get(sensor_id)

    async def follow_stored(self, say: Say) -> None:
        """Reads what is stored: soon after the start, when live values and stored ones may just have missed each other, then
        every 5 s, more rarely the longer it takes. Raises RpcError."""
        await self._places.loaded.wait()
        every_s = STORED_FIRST_S
        while True:
            pause_s = pacing(self._clock, every_s)
            await self._read_stored(self._places.asked)
            say("")
            await self._clock.sleep(pause_s())
            every_s = min(2 * every_s, STORED_EVERY_S)

    async def follow(self, say: Say) -> None:
        """What comes, until the stream ends, or the page has other sensors than were asked for. Raises RpcError."""
        await self._places.loaded.wait()
        sensors, complete = self._places.asked, self._places.complete
        request = query_pb2.WatchReadingsRequest(
            filter=query_pb2.ReadingFilter(sensor_ids=sensors), min_interval_duration=Duration(nanos=INTERVAL_MS * 1_000_000)
        )
        watching: Any = self._query.WatchReadings(request)
        try:
            await watching.initial_metadata()  # from here on nothing that comes is missed
            await self._read_stored(sensors)
            say("")
            async for answer in watching:
                self._show(answer.readings)
                if self._places.complete != complete:
                    return
        finally:
            watching.cancel()

    async def _read_stored(self, sensors: list[int]) -> None:
        token = ""
        asked = query_pb2.ReadingFilter(sensor_ids=sensors)
        for _ in range(MOST_SENSORS // PAGE):
            request = query_pb2.GetLatestRequest(filter=asked, page_size=PAGE, page_token=token)
            answer = await self._query.GetLatest(request, timeout=CALL_S)
            self._show(answer.latest)
            token = answer.next_page_token
            if not token:
                return

    def _show(self, message: reading_pb2.FlaggedColumns) -> None:
        readings = read_flagged(message)
        if readings.flags is None:
            return
        columns = [row.astype("f8").round(digits).tolist() for row, digits in zip(readings.values, _DECIMALS, strict=True)]
        flags = (qartod.unpack(readings.flags) + ord("0")).T.tobytes().decode()
        width = len(PARAMETERS)
        entries: dict[str, str] = {}
        for row, (sensor, at_us, *values) in enumerate(
            zip(readings.sensor_id.tolist(), readings.measured_at_us.tolist(), *columns, strict=True)
        ):
            if at_us <= self._newest_us.get(sensor, -1 << 63) or not self._places.heard(sensor, at_us):
                continue
            self._newest_us[sensor] = at_us
            present = [value if value == value else None for value in values]
            entries[str(sensor)] = write([str(sensor), at_us, present, flags[row * width : (row + 1) * width]])
        self._board.put(Part.READINGS, entries)
