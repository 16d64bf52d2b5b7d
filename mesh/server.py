"""The gRPC server shell: how a handler's errors become statuses, and how a server with limits, health and reflection is made."""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import structlog

from mesh.errors import Fault, WaterError, to_status

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
            await end_call(context, error)
        except (grpc.aio.AbortError, grpc.aio.BaseError):
            raise
        except Exception as error:  # noqa: BLE001 - the edge: nothing of ours may leak to a caller
            _log.exception("handler failed", method=handler.__qualname__, error=repr(error))
            await end_call(context, Fault("internal error; the server's log has the details"))
        raise AssertionError("abort always raises")

    return answer


async def end_call(context: Any, error: WaterError) -> None:
    """Ends the call with the error's status and details. Always raises."""
    details = to_status(error).SerializeToString()
    await context.abort(error.code, error.message, trailing_metadata=((STATUS_DETAILS, details),))
