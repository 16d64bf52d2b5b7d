"""What the page is made of: a channel to the services, what is followed there, and an HTTP server."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from mesh.listen import target as address_of
from mesh.ports import Clock
from mesh.run import Worker, running
from mesh.stages import Progress
from web_svc.app import make_app
from web_svc.listening import bind, listening
from web_svc.live import Live, open_channel


@asynccontextmanager
async def serving_web(target: str, host: str, port: int, clock: Clock) -> AsyncIterator[str]:
    """Serves the dashboard of the services at `target` (HOST:PORT) on this loop, and yields its own address, HOST:PORT. Port 0
    takes a free one. Raises SetupError, naming web_port, before anything is begun. The services may come and go meanwhile. Ends
    within two seconds, open streams too."""
    listener = bind(host, port)
    async with AsyncExitStack() as stack:
        stack.callback(listener.close)
        channel = open_channel(target)
        stack.push_async_callback(channel.close)
        live = Live(channel, clock)
        await stack.enter_async_context(running([Worker(Progress("page"), live.run)], clock))
        await stack.enter_async_context(listening(make_app(live, host, clock), listener))
        stack.callback(live.board.close)  # first of all: each stream says that it closes
        yield address_of(host, listener.getsockname()[1])
