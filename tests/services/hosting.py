"""Hosts an aio server of ours in a thread with its own loop, for clients that block: pytest-grpc's stubs, grpcurl, sockets."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from mesh.server import Server, ServerLimits, make_server

WITHIN_S = 20.0
_T = TypeVar("_T")


class Hosted:
    """A running server, and a way to run something on its loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.server: Server

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Waits for it, on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WITHIN_S)


@contextmanager
def hosted(services: Sequence[str], add: Callable[[Server], None], limits: ServerLimits | None = None) -> Iterator[Hosted]:
    """A server on a free port, with what `add` gave it, until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="hosted-server")
    thread.start()
    host = Hosted(loop)

    async def start() -> Server:
        server = make_server("127.0.0.1", 0, services, limits)
        add(server)
        await server.start()
        return server

    try:
        host.server = host.run(start())
        yield host
        host.run(host.server.stop(0))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
