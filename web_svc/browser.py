"""How one browser gets the board: a stream of Server-Sent Events, as fast as it reads and no faster."""

import asyncio

import structlog
from starlette.types import Receive, Scope, Send

from mesh.ports import Clock
from web_svc.board import Board

MOST_BROWSERS = 200
PACE_S = 0.05
BEAT_S = 5.0
UNREAD_S = 30.0
_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
_log = structlog.get_logger()


class Browser:
    """The answer to GET /live: first everything, then what changes, at most 20 times a second, and a beat in 5 s of quiet. Ends
    with the event `closing` when the board closes, and at once with `refused` beyond 200 browsers. A browser that reads
    nothing for 30 s is left."""

    def __init__(self, board: Board, clock: Clock) -> None:
        self._board = board
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        if self._board.browsers >= MOST_BROWSERS:
            problem = f"{MOST_BROWSERS} browsers are served, the most at once: close one, this page tries again"
            await _write(send, f"event: refused\ndata: {problem}\n\n", last=True)
            return
        with self._board.followed():
            async with asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(self._tell(send))
                leaving = tasks.create_task(_left(receive))
                await asyncio.wait((telling, leaving), return_when=asyncio.FIRST_COMPLETED)
                telling.cancel()
                leaving.cancel()

    async def _tell(self, send: Send) -> None:
        revision = 0
        try:
            while not self._board.closed:
                frame = self._board.since(revision)
                revision = frame.revision
                await _write(send, f"data: {frame.content}\n\n")
                await self._clock.sleep(PACE_S)
                await self._change(revision)
            await _write(send, "event: closing\ndata: the server stops\n\n", last=True)
        except TimeoutError:
            _log.warning("browser left: it does not read", for_s=UNREAD_S)

    async def _change(self, revision: int) -> None:
        try:
            async with asyncio.timeout(BEAT_S):
                await self._board.changed(revision)
        except TimeoutError:
            return  # a frame without changes is the beat


async def _write(send: Send, text: str, last: bool = False) -> None:
    async with asyncio.timeout(UNREAD_S):
        await send({"type": "http.response.body", "body": text.encode(), "more_body": not last})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
