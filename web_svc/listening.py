"""How the page is served inside a process that has a loop and signals of its own."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp

from mesh.listen import check_address, not_bound

CLOSE_WITHIN_S = 1
UNREAD_MS = 30_000
MOST_CONNECTIONS = 600  # a browser has up to six
BACKLOG = 128


def bind(host: str, port: int) -> socket.socket:
    """A bound socket. Port 0 takes a free one. Raises SetupError for an address beyond loopback (there is no TLS), and for one
    that cannot be had, naming web_port."""
    check_address(host, encrypted=False)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: a connection whose other end reads nothing ends after this long
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise not_bound(host, port, "web_port") from None
    listener.setblocking(False)
    return listener


@asynccontextmanager
async def listening(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Answers while the block runs; then takes no more, and cancels what has not ended within a second. Leaves signals alone."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=CLOSE_WITHIN_S,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup([listener])
    loop = asyncio.create_task(server.main_loop())
    try:
        yield
    finally:
        server.should_exit = True
        await loop
        await server.shutdown([listener])
