"""What happens to a request whose bytes are no message of the method: an error of ours instead of gRPC's own INTERNAL."""

import inspect
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

from mesh.errors import InvalidArgument


class UnreadableRequests(grpc.aio.ServerInterceptor):
    """Gives every method with one request a deserializer that does not fail: bytes that are no such message end the call with
    INVALID_ARGUMENT (UNREADABLE_REQUEST). `end_call` ends a call with an error and always raises."""

    def __init__(self, end_call: Callable[[Any, InvalidArgument], Awaitable[None]]) -> None:
        self._end_call = end_call

    async def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The method's handler, made safe."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming or handler.request_deserializer is None:
            return handler
        method = handler_call_details.method
        behaviour = handler.unary_stream if handler.response_streaming else handler.unary_unary
        deserialize, serialize = handler.request_deserializer, handler.response_serializer
        make = grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        return make(self._guarded(behaviour, method), _lenient(deserialize), serialize)

    def _guarded(self, behaviour: Callable[[Any, Any], Any], method: str) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(request: Any, context: Any) -> Any:
            if isinstance(request, _Unreadable):
                problem = f"{request.size_bytes} bytes that are no request message of {method}"
                await self._end_call(context, InvalidArgument(problem, reason="UNREADABLE_REQUEST", metadata={"method": method}))
            answering = behaviour(request, context)
            if not inspect.isasyncgen(answering):
                return await answering
            async with aclosing(answering):
                async for message in answering:
                    await context.write(message)
            return None

        return answer


class _Unreadable:
    """Stands for a request that could not be read."""

    __slots__ = ("size_bytes",)

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes


def _lenient(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(raw: bytes) -> Any:
        try:
            return deserialize(raw)
        except Exception:  # noqa: BLE001 - whatever a decoder raises, the bytes are the caller's fault
            return _Unreadable(len(raw))

    return read
