"""The arrow `board`: what changed on the board, medium, from the Exchange to this process's watchers."""

import asyncio

import structlog

from mesh.codec.tasks import read_board
from mesh.errors import InvalidArgument
from mesh.ports import Exchange
from mesh.stages import Progress
from query_svc.watch import Watch

STAGE = "board"
MOST_WAITING = 32  # tasks, of 1.1 MB at most
THREAD_FROM_BYTES = 100_000
_log = structlog.get_logger()


class Board:
    """Follows the medium tasks in a queue of its own, named by `worker`, the name of this process. They come at most 4 times a
    second for each region, and are lost where nobody is fast enough or something is away: a live picture, not a record."""

    def __init__(self, exchange: Exchange, watch: Watch, worker: str, progress: Progress) -> None:
        self._exchange = exchange
        self._watch = watch
        self._worker = worker
        self._progress = progress

    async def run(self) -> None:
        """From now on, until cancelled. Raises Unavailable when the Exchange is away."""
        async with self._exchange.follow(f"board-{self._worker}", MOST_WAITING) as updates:
            async for body in updates:
                if self._watch.is_watched:
                    await self._show(body)
                self._progress.handled_count += 1
                self._progress.problem = ""

    async def _show(self, body: bytes) -> None:
        try:
            if len(body) < THREAD_FROM_BYTES:
                region, readings = read_board(body)
            else:
                region, readings = await asyncio.to_thread(read_board, body)
        except InvalidArgument as error:
            _log.warning("board update not shown", problem=error.message)
        else:
            self._watch.show(region, readings)
