"""One connection to RabbitMQ: opened and closed with deadlines, its driver's errors translated to ours."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from aiormq import Channel, Connection, TransportFactory
from aiormq.connection import TCPTransportFactory, TLSTransportFactory
from aiormq.exceptions import AMQPError, ConnectionClosed, InvalidFrameError, ProbableAuthenticationError
from pamqp.exceptions import PAMQPException

from mesh.errors import SetupError, Unavailable

OPEN_DEADLINE_S = 5.0
CALL_DEADLINE_S = 5.0
HEARTBEAT_S = 5  # RabbitMQ notices a dead peer within 15 s by this, the driver within 20
_CLOSE_S = 2.0
_DRIVER_ERRORS = (AMQPError, PAMQPException, OSError, RuntimeError, EOFError, StopAsyncIteration)  # OSError: TimeoutError too


@dataclass(frozen=True, slots=True)
class Address:
    """Where RabbitMQ is. Only `url` holds the password, and only the driver sees it."""

    url: str = field(repr=False)
    where: str
    user: str
    vhost: str


def address_of(url: str) -> Address:
    """Raises SetupError for what is no address of RabbitMQ, without repeating it."""
    shape = "amqp://user:password@host:port/vhost"
    try:
        parts = urlsplit(url)
        port = parts.port or {"amqp": 5672, "amqps": 5671}[parts.scheme]
    except (ValueError, KeyError):
        raise SetupError(f"rabbitmq_url is no address of RabbitMQ: {shape}, or amqps:// for TLS") from None
    if not parts.hostname or not parts.username:
        raise SetupError(f"rabbitmq_url names no {'user' if parts.hostname else 'host'}: {shape}")
    query = parts.query if "heartbeat=" in parts.query else "&".join(filter(None, (parts.query, f"heartbeat={HEARTBEAT_S}")))
    return Address(
        urlunsplit(parts._replace(query=query)),
        f"{parts.hostname}:{port}",
        unquote(parts.username),
        unquote(parts.path[1:]) or "/",
    )


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raises Unavailable for whatever the driver raises: also where it cancels, by itself, what waited for a connection that
    was lost."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Unavailable(f"{what}: the connection was lost") from error
    except _DRIVER_ERRORS as error:
        raise Unavailable(f"{what}: {problem_of(error)}") from error


def problem_of(error: BaseException) -> str:
    """What the driver's error says, never empty."""
    if isinstance(error, TimeoutError) and not isinstance(error, AMQPError):
        return "no answer in time"
    return str(error).strip() or type(error).__name__


class Wire(TransportFactory):
    """Keeps hold of the driver's socket, to cut it when there is nobody at the other end to part from."""

    def __init__(self, inner: TransportFactory) -> None:
        self._inner = inner
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: Any, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self._writer = await self._inner.create(url, **options)
        return reader, self._writer

    def cut(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


class Session:
    """An open connection with one channel. Made by `connect` and ended by `end`."""

    def __init__(self, connection: Connection, channel: Channel, wire: Wire) -> None:
        self.connection = connection
        self.channel = channel
        self._wire = wire
        self._is_cut = False

    @property
    def is_alive(self) -> bool:
        return not (self._is_cut or self.channel.is_closed or self.connection.is_closed)

    async def new_channel(self) -> Channel:
        """Another channel, without confirms; the driver's errors as they are."""
        return await _new_channel(self.connection, confirms=False)

    def cut(self) -> None:
        """At once, without a word; whoever waits for something on it is told."""
        self._is_cut = True
        self._wire.cut()

    async def end(self) -> None:
        """Closed, in good order where that takes at most 2 s, else cut. Raises nothing."""
        await _end(self._wire, self.channel, self.connection)


async def _new_channel(connection: Connection, confirms: bool) -> Channel:
    channel = await connection.channel(publisher_confirms=confirms, on_return_raises=True)
    assert isinstance(channel, Channel)
    return channel


async def _end(wire: Wire, *closing: Channel | Connection) -> None:
    async def close() -> None:
        for each in closing:
            await asyncio.gather(each.close(ConnectionClosed(0, "closed by this process")), return_exceptions=True)

    task = asyncio.ensure_future(close())
    try:
        await asyncio.wait([task], timeout=_CLOSE_S)
    finally:
        wire.cut()
        if not task.done():
            await asyncio.wait([task], timeout=_CLOSE_S)
            task.cancel()


async def connect(address: Address, name: str, confirms: bool = False) -> Session:
    """A session, within 5 s; raises SetupError where RabbitMQ refuses user or virtual host, else Unavailable."""
    wire = Wire(TLSTransportFactory() if address.url.startswith("amqps:") else TCPTransportFactory())
    connection = Connection(address.url, transport_factory=wire, client_properties={"connection_name": f"water mesh: {name}"})
    try:
        with translated(f"RabbitMQ at {address.where} is away"):
            try:
                async with asyncio.timeout(OPEN_DEADLINE_S):
                    await connection.connect()
                    return Session(connection, await _new_channel(connection, confirms), wire)
            except ProbableAuthenticationError as error:
                raise SetupError(_login_refused(address)) from error
            except InvalidFrameError as error:  # what the driver makes of a refusal at this point
                raise SetupError(_vhost_refused(address)) from error
    except BaseException:
        await _end(wire, connection)
        raise


def _login_refused(address: Address) -> str:
    return (
        f"RabbitMQ at {address.where} refuses the user {address.user!r}: no such user or another password; set rabbitmq_url, or "
        f"rabbitmqctl add_user {address.user} and change_password"
    )


def _vhost_refused(address: Address) -> str:
    return (
        f"RabbitMQ at {address.where} refuses the virtual host {address.vhost!r} to the user {address.user!r}: "
        f"rabbitmqctl add_vhost {address.vhost}, then {rights_mend(address)}"
    )


def rights_mend(address: Address) -> str:
    """The command that gives the user the rights that the mesh needs."""
    return f'rabbitmqctl set_permissions -p {address.vhost} {address.user} ".*" ".*" ".*"'
