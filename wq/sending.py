"""How opened files are sent through a gateway: at full speed one after the other, in rhythm all at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from mesh.errors import Unavailable
from mesh.gateway import Gateway
from water.readings import Readings
from wq.formats.station import StationFile
from wq.pace import Pace

_TOGETHER_S = 0.1  # readings due within this are sent together
Send = Callable[[Readings], Awaitable[None]]


async def send_files(
    files: Sequence[StationFile], gateway: Gateway, *, backfill: bool, speed: float | None, patience_s: float
) -> None:
    """Hands every readable reading over and waits until all of them are acknowledged. In rhythm every file begins now,
    whenever it was measured. Files are read in one thread. Raises Unavailable when nothing moved for `patience_s`; may be
    cancelled."""

    async def send(readings: Readings) -> None:
        try:
            async with asyncio.timeout(patience_s):
                await (gateway.send_backlog(readings) if backfill else gateway.send(readings))
        except TimeoutError:
            why = f" ({gateway.statistics.last_error})" if gateway.statistics.last_error else ""
            raise Unavailable(f"no acknowledgement for {patience_s:g} s{why}", reason="NOT_ACKNOWLEDGED") from None

    with ThreadPoolExecutor(1, "read") as reader:
        if speed is None:
            for file in files:
                await _send_file(file, reader, send, None)
        else:
            async with asyncio.TaskGroup() as group:
                for file in files:
                    group.create_task(_send_file(file, reader, send, Pace(speed)))
    await gateway.flush(patience_s)


async def _send_file(file: StationFile, reader: ThreadPoolExecutor, send: Send, pace: Pace | None) -> None:
    pieces = file.readings()
    start = monotonic()
    while True:
        readings = await asyncio.get_running_loop().run_in_executor(reader, next, pieces, None)
        if readings is None:
            return
        if pace is None:
            await send(readings)
        else:
            await _send_in_rhythm(readings, pace.due_s(readings.measured_at_us), start, send)


async def _send_in_rhythm(readings: Readings, due_s: NDArray[np.float64], start: float, send: Send) -> None:
    done = 0
    while done < len(readings):
        now_s = monotonic() - start
        due = int(np.searchsorted(due_s, now_s + _TOGETHER_S, side="right"))
        if due > done:
            await send(readings.take(np.arange(done, due)))
            done = due
        else:
            await asyncio.sleep(float(due_s[done]) - now_s)
