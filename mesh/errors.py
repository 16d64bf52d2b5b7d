"""One tree of errors for the whole mesh, and its two-way mapping to gRPC statuses.

WaterError
|- InvalidArgument      the caller's request can never work as it is      INVALID_ARGUMENT
|- NotFound             no such thing                                     NOT_FOUND
|- AlreadyExists        the name is taken                                 ALREADY_EXISTS
|- Conflict             somebody changed it, or took our place            ABORTED
|  |- PositionLost      another worker moved the position                 (never crosses the wire)
|  `- ObjectConflict    the object exists with other content              (never crosses the wire)
|- FailedPrecondition   right request, wrong state                        FAILED_PRECONDITION
|- TooLarge             beyond a limit; asking again will not help        RESOURCE_EXHAUSTED
|- Unavailable          try again after `retry_after_s`                   UNAVAILABLE
|- Unsupported          not built, or not served here                     UNIMPLEMENTED
|- Fault                our own defect                                    INTERNAL
`- SetupError           this process cannot start as configured           (never crosses the wire)
"""

from collections.abc import Mapping

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "waterquality.v1"


class WaterError(Exception):
    """Base. `reason` is UPPER_SNAKE and stable; the message names the value that was wrong and what would be right."""

    default_reason = "FAULT"
    code = grpc.StatusCode.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        fields: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.fields = dict(fields or {})
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s


class InvalidArgument(WaterError):
    """`fields` maps a field path to what is wrong with it."""

    default_reason = "INVALID_ARGUMENT"
    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(WaterError):
    default_reason = "NOT_FOUND"
    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(WaterError):
    default_reason = "ALREADY_EXISTS"
    code = grpc.StatusCode.ALREADY_EXISTS


class Conflict(WaterError):
    default_reason = "CONFLICT"
    code = grpc.StatusCode.ABORTED


class PositionLost(Conflict):
    default_reason = "POSITION_LOST"


class ObjectConflict(Conflict):
    default_reason = "OBJECT_CONFLICT"


class FailedPrecondition(WaterError):
    default_reason = "FAILED_PRECONDITION"
    code = grpc.StatusCode.FAILED_PRECONDITION


class TooLarge(WaterError):
    default_reason = "TOO_LARGE"
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(WaterError):
    """Always says when to try again; 1 s unless given."""

    default_reason = "UNAVAILABLE"
    code = grpc.StatusCode.UNAVAILABLE

    def __init__(self, message: str, *, reason: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, reason=reason, retry_after_s=retry_after_s)


class Unsupported(WaterError):
    default_reason = "NOT_SUPPORTED_YET"
    code = grpc.StatusCode.UNIMPLEMENTED


class Fault(WaterError):
    pass


class SetupError(WaterError):
    default_reason = "SETUP"


WIRE_KINDS: tuple[type[WaterError], ...] = (
    InvalidArgument,
    NotFound,
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    TooLarge,
    Unavailable,
    Unsupported,
    Fault,
)
_KIND_OF_CODE = {kind.code: kind for kind in WIRE_KINDS}


def to_status(error: WaterError) -> status_pb2.Status:
    """The google.rpc.Status of an error: one ErrorInfo, BadRequest where fields are named, RetryInfo where a retry helps."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code.name), message=error.message)
    _add(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata))
    if error.fields:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=problem)
            for field, problem in error.fields.items()
        ]
        _add(status, error_details_pb2.BadRequest(field_violations=violations))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMicroseconds(round(error.retry_after_s * 1_000_000))
        _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def from_rpc(error: grpc.RpcError) -> WaterError:
    """The error that a server of ours raised, or the nearest kind for a status that is not ours (reason: the code's name)."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return Fault(str(error))
    code = error.code()
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo(reason=code.name)
    bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details if status else ():
        for message in (info, bad, retry):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    kind = _KIND_OF_CODE.get(code, Fault)
    if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        kind = Unavailable
    text = str(error.details() or code.name)
    if kind is Unavailable:
        return Unavailable(text, reason=info.reason, retry_after_s=retry.retry_delay.ToMicroseconds() / 1e6 or 1.0)
    fields = {violation.field: violation.description for violation in bad.field_violations}
    return kind(text, reason=info.reason, fields=fields, metadata=dict(info.metadata))


def _add(status: status_pb2.Status, detail: Message) -> None:
    status.details.add().Pack(detail)
