"""A real receiver of webhooks, which verifies what comes as a partner would and answers as the test says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any

import standardwebhooks

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the specification's own example
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Received:
    """One verified webhook."""

    message_id: str
    host: str
    content: Any
    body: bytes


@dataclass(slots=True)
class Receiver:
    """`answers` are used up one by one, then `otherwise`. `answered` are the ids that were answered to the end."""

    port: int = 0
    received: list[Received] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    otherwise: Answer = field(default_factory=lambda: answering(200))
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?key=token"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            received = await _read(reader)
            self.received.append(received)
            await (self.answers.pop(0) if self.answers else self.otherwise)(reader, writer)
            await writer.drain()
            writer.close()
            self.answered.append(received.message_id)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the sender has gone
        finally:
            if not writer.is_closing():
                writer.transport.abort()


@asynccontextmanager
async def receiving(tls: SSLContext | None = None) -> AsyncIterator[Receiver]:
    """Listens on a free port while the block runs."""
    receiver = Receiver()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(asyncio.CancelledError):
            await receiver.serve(reader, writer)
        tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def answering(status: int, body: bytes = b"", **headers: str) -> Answer:
    """That status, and headers named with _ for -."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    return answer


async def hanging(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """No answer until the sender gives up."""
    await reader.read()


async def dripping(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Headers without an end, one byte at a time: always something, never an answer."""
    writer.write(b"HTTP/1.1 200 x\r\nx-slow: ")
    while not writer.is_closing():
        writer.write(b"z")
        await writer.drain()
        await asyncio.sleep(0.05)


async def flooding(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An error of many megabytes."""
    writer.write(b"HTTP/1.1 500 x\r\ncontent-length: 1000000000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"<b>no</b>\x1b[31m" * 5000)
        await writer.drain()
        await asyncio.sleep(0)


async def cutting(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The connection ends without an answer."""
    writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    request, *lines = head.strip().split("\r\n")
    assert request.startswith("POST /hook?key=token HTTP/1.1")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    content = standardwebhooks.Webhook(SECRET).verify(body, headers)
    return Received(headers["webhook-id"], headers["host"], content, body)
