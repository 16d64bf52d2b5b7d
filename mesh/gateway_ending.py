"""What the end of a stream means for its gateway: try again (when?), cut the batches smaller, or stop."""

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from mesh.errors import Conflict, TooLarge, WaterError, from_rpc

_FINAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


_MADE_UP = "Internal error from Core"
_LATE_STATUS_S = 1.0


@dataclass(frozen=True, slots=True)
class Ending:
    """`is_final`: the same stream would end the same way again, so the gateway stops. `retry_after_s`: when the server wants to
    be asked again, None: it did not say. `is_orderly`: the server closed as agreed, nothing went wrong."""

    error: WaterError
    is_final: bool = False
    is_orderly: bool = False
    is_too_large: bool = False
    retry_after_s: float | None = None


class EndWatch:
    """Keeps the status that a call really ended with. Where a write and the server's end of the stream cross, grpc.aio puts
    INTERNAL ("Internal error from Core") in its place, sometimes before it is known and sometimes after."""

    def __init__(self, call: Any) -> None:
        self._true: grpc.aio.AioRpcError | None = None
        self._is_known = asyncio.Event()
        call.add_done_callback(self._note)

    async def ending(self, failure: grpc.aio.AioRpcError) -> Ending:
        """What this failure of the call means; waits a moment for the true status where grpc.aio made one up."""
        if failure.details() == _MADE_UP:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LATE_STATUS_S):
                    await self._is_known.wait()
            failure = self._true or failure
        return ending_of(failure)

    def _note(self, call: Any) -> None:
        """Called each time a status is put in place."""
        details = _at_once(call.details())
        if details != _MADE_UP and not call.cancelled():
            metadata = _at_once(call.initial_metadata()), _at_once(call.trailing_metadata())
            self._true = grpc.aio.AioRpcError(_at_once(call.code()), *metadata, details)
            self._is_known.set()


def _at_once(known: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for."""
    try:
        known.send(None)
    except StopIteration as done:
        return done.value
    known.close()
    raise AssertionError("the status of a call that is done is known")


def ending_of(failure: grpc.aio.AioRpcError) -> Ending:
    """INVALID_ARGUMENT and the like are final, and so is ABORTED (NEWER_STREAM): somebody else uses the gateway id, and taking it
    back would go on for ever. RESOURCE_EXHAUSTED without RetryInfo is a frame too large. All else passes."""
    error = from_rpc(failure)
    retry_after_s = _retry_after_s(failure)
    newer = isinstance(error, Conflict) and error.reason == "NEWER_STREAM"
    return Ending(
        error,
        is_final=newer or failure.code() in _FINAL,
        is_too_large=isinstance(error, TooLarge) and retry_after_s is None,
        retry_after_s=retry_after_s,
    )


def wait_before(attempt: int, ending: Ending, min_s: float, max_s: float, rng: random.Random) -> float:
    """Seconds until the next try; `attempt` counts from 0 since a stream last got anywhere. With jitter, so that a thousand
    gateways that lost one server do not come back in one moment; never sooner than the server asked."""
    if ending.retry_after_s is not None:
        return float(ending.retry_after_s * rng.uniform(1.0, 1.25))
    return float(min(max_s, min_s * 2 ** min(attempt, 30)) * rng.uniform(0.5, 1.0))


def _retry_after_s(failure: grpc.aio.AioRpcError) -> float | None:
    status = rpc_status.from_call(failure)
    retry = error_details_pb2.RetryInfo()
    for detail in status.details if status else ():
        if detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            return float(retry.retry_delay.ToMicroseconds() / 1e6)
    return None
