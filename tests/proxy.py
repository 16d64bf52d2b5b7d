"""A TCP proxy that breaks on demand: between a client and its server, so that "the network failed" is a real test."""

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 64 * 1024
_LIMITED_CHUNK_BYTES = 4 * 1024
_ABORT_AT_CLOSE = struct.pack("ii", 1, 0)


class BreakableProxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target_port` inside `async with`. All faults may be set at any moment, from the
    loop's thread; new connections meet those in force."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._delay_s = 0.0
        self._bytes_per_s: float | None = None
        self._busy_until_s = {True: 0.0, False: 0.0}
        self._cut_after: int | None = None
        self._is_refusing = False
        self.port = 0
        self.accepted_count = 0
        self.forwarded_bytes = 0

    @property
    def target_port(self) -> int:
        """Where new connections are led."""
        return self._target_port

    @property
    def target(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Resets every open connection, on both sides. New ones are served."""
        self._cut_after = None
        for writer in list(self._connections):
            _abort(writer)

    def cut_after(self, bytes_from_client: int) -> None:
        """Cuts when that many more bytes of clients were forwarded: in the middle of whatever they are part of."""
        self._cut_after = self.forwarded_bytes + bytes_from_client

    def refuse(self, is_refusing: bool = True) -> None:
        """Resets new connections at once, as a machine without the server does. Open ones go on."""
        self._is_refusing = is_refusing

    def lead_to(self, target_port: int) -> None:
        """New connections go there; open ones stay where they are."""
        self._target_port = target_port

    def pause(self) -> None:
        """Half-open: connections stay, and nothing goes through in either direction until `resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        """Ends `pause`; what was held back goes on."""
        self._flowing.set()

    def delay(self, seconds: float) -> None:
        """Holds every chunk back that long, one after the other."""
        self._delay_s = seconds

    def limit(self, bytes_per_s: float | None) -> None:
        """Lets no more than that through in each direction, of all connections together; None: as much as there is."""
        self._bytes_per_s = bytes_per_s

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted_count += 1
        try:
            if self._is_refusing:
                _abort(writer)
            else:
                await self._join(reader, writer)
        except (OSError, asyncio.CancelledError):
            _abort(writer)
        finally:
            self._tasks.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        ends = {writer, there_writer}
        self._connections |= ends
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, there_writer, from_client=True))
                tasks.create_task(self._pump(there_reader, writer, from_client=False))
        finally:
            self._connections -= ends
            for end in ends:
                _abort(end)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, from_client: bool) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            while data := await reader.read(_CHUNK_BYTES if self._bytes_per_s is None else _LIMITED_CHUNK_BYTES):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                if self._bytes_per_s is not None:
                    await asyncio.sleep(self._turn_s(len(data), from_client))
                await self._flowing.wait()
                if from_client:
                    data = self._counted(data)
                writer.write(data)
                await writer.drain()
                if self._cut_after is not None and self.forwarded_bytes >= self._cut_after:
                    self.cut()
            if not writer.is_closing():
                writer.write_eof()

    def _turn_s(self, count: int, from_client: bool) -> float:
        """Seconds until a chunk has passed behind those that are on their way already."""
        assert self._bytes_per_s is not None
        now_s = asyncio.get_running_loop().time()
        self._busy_until_s[from_client] = max(now_s, self._busy_until_s[from_client]) + count / self._bytes_per_s
        return self._busy_until_s[from_client] - now_s

    def _counted(self, data: bytes) -> bytes:
        if self._cut_after is not None:
            data = data[: max(0, self._cut_after - self.forwarded_bytes)]
        self.forwarded_bytes += len(data)
        return data


def _abort(writer: asyncio.StreamWriter) -> None:
    """Closes with a reset, not with an orderly end."""
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None and not writer.is_closing():
        with contextlib.suppress(OSError, RuntimeError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT_AT_CLOSE)
    writer.transport.abort()
