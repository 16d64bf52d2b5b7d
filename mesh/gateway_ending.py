"""What the end of a stream means for its gateway: try again (when?), cut the batches smaller, or stop."""

import asyncio
import random
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
_LATE_STATUS_LOOKS, _LATE_STATUS_EVERY_S = 100, 0.01


@dataclass(frozen=True, slots=True)
class Ending:
    """`is_final`: the same stream would end the same way again, so the gateway stops. `retry_after_s`: when the server wants to
    be asked again, None: it did not say. `is_orderly`: the server closed as agreed, nothing went wrong."""

    error: WaterError
    is_final: bool = False
    is_orderly: bool = False
    is_too_large: bool = False
    retry_after_s: float | None = None


async def true_ending(call: Any, failure: grpc.aio.AioRpcError) -> Ending:
    """As `ending_of`, but of what the server said. Where a write and the server's end of the stream cross, grpc.aio first
    makes up INTERNAL ("Internal error from Core") and learns the real status a moment later, waited for here up to a second."""
    for _ in range(_LATE_STATUS_LOOKS):
        if failure.details() != _MADE_UP:
            break
        await asyncio.sleep(_LATE_STATUS_EVERY_S)
        metadata = await call.initial_metadata(), await call.trailing_metadata()
        failure = grpc.aio.AioRpcError(await call.code(), *metadata, await call.details())
    return ending_of(failure)


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
