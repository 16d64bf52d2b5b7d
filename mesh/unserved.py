"""Services that have a contract but are not built yet: every RPC of theirs answers UNIMPLEMENTED and says so."""

from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from waterquality.v1 import analytics_pb2

from mesh.errors import Unsupported
from mesh.server import end_call

UNSERVED: tuple[ServiceDescriptor, ...] = (analytics_pb2.DESCRIPTOR.services_by_name["AnalyticsService"],)


def unserved(service: ServiceDescriptor) -> grpc.GenericRpcHandler:
    """Answers every RPC of the service with UNIMPLEMENTED (NOT_SERVED_YET), naming it, without reading its request."""
    handlers = {method.name: _handler(service, method) for method in service.methods}
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _handler(service: ServiceDescriptor, method: MethodDescriptor) -> "grpc.RpcMethodHandler[Any, Any]":
    name = f"{service.full_name}/{method.name}"

    async def refuse(request: object, context: Any) -> None:
        problem = f"{name} is part of the contract and not built yet; nothing was done"
        await end_call(context, Unsupported(problem, reason="NOT_SERVED_YET", metadata={"method": name}))

    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    return kinds[method.client_streaming, method.server_streaming](refuse)
