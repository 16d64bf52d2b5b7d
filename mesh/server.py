"""The gRPC server shell: how a handler's errors become statuses, and how a server with limits, health and reflection is made."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import structlog
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from mesh.errors import Fault, WaterError, to_status
from mesh.listen import check_address, not_bound, target
from mesh.symbols import Symbols
from mesh.unreadable import UnreadableRequests

_log = structlog.get_logger()
_Answer = TypeVar("_Answer")
STATUS_DETAILS = "grpc-status-details-bin"


def answers(
    handler: Callable[[Any, Any, Any], Awaitable[_Answer]],
) -> Callable[[Any, Any, Any], Awaitable[_Answer]]:
    """Wraps an async servicer method (unary, or one that streams with `await context.write(..)`): a WaterError ends the call
    with its status and details; anything else is logged and ends it with INTERNAL (FAULT), without inner details."""

    @functools.wraps(handler)
    async def answer(self: Any, request: Any, context: Any) -> _Answer:
        try:
            return await handler(self, request, context)
        except WaterError as error:
            code, message, details = error.code, error.message, _details(error)
        except grpc.aio.InternalError:
            raise asyncio.CancelledError from None  # the caller went while something was on its way to it: nothing to log
        except (grpc.aio.AbortError, grpc.aio.BaseError):
            raise
        except Exception as error:  # noqa: BLE001 - the edge: nothing of ours may leak to a caller
            _log.exception("handler failed", method=handler.__qualname__, error=repr(error))
            fault = Fault("internal error; the server's log has the details")
            code, message, details = fault.code, fault.message, _details(fault)
        # Not in the handlers above: their errors hold what the call had in memory, and a caller may let us wait here.
        await _end(context, code, message, details)
        raise AssertionError("abort always raises")

    return answer


async def end_call(context: Any, error: WaterError) -> None:
    """Ends the call with the error's status and details. Always raises: when the status is on its way, which a caller that does
    not read what was sent before delays until it does, or goes."""
    await _end(context, error.code, error.message, _details(error))


def _details(error: WaterError) -> bytes:
    return bytes(to_status(error).SerializeToString())


async def _end(context: Any, code: grpc.StatusCode, message: str, details: bytes) -> None:
    try:
        await context.abort(code, message, trailing_metadata=((STATUS_DETAILS, details),))
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None  # the caller went before the status reached it, which is nothing to log


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one server allows. A greater request is ended by gRPC with RESOURCE_EXHAUSTED before it is read into memory; so is a
    call beyond `max_calls`. A connection is pinged after `keepalive_s` of quiet and given up `keepalive_timeout_s` later;
    callers may ping every `min_ping_interval_s`. `read_ahead_bytes` of each call wait in memory when its handler does not take
    them: gRPC's own windows grow to many megabytes, the more the busier the process is (measured: 17 MB a call)."""

    max_receive_bytes: int = 1024 * 1024 + 4096  # the largest batch that settings allow, and its frame
    max_send_bytes: int = 4 * 1024 * 1024  # what a gRPC client receives unless told otherwise
    read_ahead_bytes: int = 256 * 1024  # 2.5 MB/s a call where a round trip takes 100 ms
    max_calls: int = 8192
    max_concurrent_streams: int = 1024  # calls of one connection
    keepalive_s: float = 30.0
    keepalive_timeout_s: float = 10.0
    min_ping_interval_s: float = 10.0


class Server:
    """A bound server. Add servicers to `grpc`, then `start`; a service is NOT_SERVING until `set_serving` names it."""

    def __init__(self, server: grpc.aio.Server, port: int, services: Sequence[str]) -> None:
        self.grpc = server
        self.port = port
        self._services = tuple(services)
        self._health = health.aio.HealthServicer()
        add_HealthServicer_to_server(self._health, server)
        names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server, pool=Symbols())

    async def start(self) -> None:
        """Begins to answer; health says NOT_SERVING for the whole and for each service."""
        for name in ("", *self._services):
            await self._health.set(name, HealthCheckResponse.NOT_SERVING)
        await self.grpc.start()

    async def set_serving(self, services: Iterable[str]) -> None:
        """Health says SERVING for these services and for the whole (the empty name)."""
        for name in (*services, ""):
            await self._health.set(name, HealthCheckResponse.SERVING)

    async def set_not_serving(self) -> None:
        """The first step of a drain: health says NOT_SERVING for everything, for good."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Takes no new call, waits up to `grace_s` for open ones and cancels what is left."""
        await self.grpc.stop(grace_s)


def make_server(
    host: str,
    port: int,
    services: Sequence[str],
    limits: ServerLimits | None = None,
    credentials: grpc.ServerCredentials | None = None,
    *,
    reuse_port: bool = False,
) -> Server:
    """A bound server for these services (full names, for reflection and health), to be made in a running loop. Port 0 takes a
    free one. Raises SetupError for an address beyond loopback without credentials, and for one that cannot be bound; a
    second server never shares a port silently, only where both say `reuse_port`: then they share its connections."""
    check_address(host, encrypted=credentials is not None)
    limits = limits or ServerLimits()
    server = grpc.aio.server(
        interceptors=(UnreadableRequests(end_call),),
        options=[*_options(limits), ("grpc.so_reuseport", int(reuse_port))],
        maximum_concurrent_rpcs=limits.max_calls,
    )
    address = target(host, port)
    try:
        bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError:
        bound = 0
    if bound == 0:
        raise not_bound(host, port, "grpc_port")
    return Server(server, bound, services)


def _options(limits: ServerLimits) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.max_receive_bytes),
        ("grpc.max_send_message_length", limits.max_send_bytes),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", limits.read_ahead_bytes),
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
        ("grpc.keepalive_time_ms", round(limits.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(limits.keepalive_timeout_s * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", round(limits.min_ping_interval_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
