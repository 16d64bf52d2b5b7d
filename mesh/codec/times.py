"""Timestamp and Duration of the wire <-> whole microseconds."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from mesh.errors import InvalidArgument

_FIRST_S, _LAST_S = -62_135_596_800, 253_402_300_799  # years 1 to 9999
_LONGEST_S = 315_576_000_000
_BILLION = 1_000_000_000


def read_time(message: Message, name: str, path: str) -> int | None:
    """The field's microseconds since 1970, rounded up, so that `>=` and `<` with whole microseconds mean the same; None when
    it is not set. Raises InvalidArgument, naming the path, for a Timestamp outside the years 1 to 9999."""
    if not message.HasField(name):
        return None
    moment: Timestamp = getattr(message, name)
    if not (_FIRST_S <= moment.seconds <= _LAST_S and 0 <= moment.nanos < _BILLION):
        problem = f"{moment.seconds} s and {moment.nanos} ns: seconds within the years 1 to 9999, nanos 0 to 999999999"
        raise InvalidArgument(f"{path}: {problem}", fields={path: problem})
    return moment.seconds * 1_000_000 - (-moment.nanos // 1000)


def write_time(at_us: int) -> Timestamp:
    """The Timestamp of microseconds since 1970."""
    seconds, us = divmod(at_us, 1_000_000)
    return Timestamp(seconds=seconds, nanos=us * 1000)


def read_duration(message: Message, name: str, path: str) -> int | None:
    """The field's microseconds, rounded up; None when it is not set. Raises InvalidArgument, naming the path, for a Duration
    of more than 10,000 years or of mixed signs."""
    if not message.HasField(name):
        return None
    span: Duration = getattr(message, name)
    mixed = span.seconds * span.nanos < 0
    if mixed or not (-_LONGEST_S <= span.seconds <= _LONGEST_S and -_BILLION < span.nanos < _BILLION):
        problem = f"{span.seconds} s and {span.nanos} ns: at most 10,000 years, both of one sign"
        raise InvalidArgument(f"{path}: {problem}", fields={path: problem})
    return span.seconds * 1_000_000 - (-span.nanos // 1000)


def write_duration(us: int) -> Duration:
    """The Duration of microseconds."""
    span = Duration()
    span.FromMicroseconds(us)
    return span
