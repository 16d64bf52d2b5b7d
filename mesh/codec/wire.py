"""Bytes on the wire that are not worth a whole message: one encoded field, and decoding with an error of ours.

By the encoding's own rule a message may be put together from its encoded fields. That is how columns go from one record to the
next as the bytes they were: copying a message of 1,000 readings costs ten times as much.
"""

from typing import TypeVar

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from mesh.codec.packed import varint
from mesh.errors import InvalidArgument

_M = TypeVar("_M", bound=Message)


def field(message: Descriptor, name: str, content: bytes) -> bytes:
    """A length-delimited field of a message as it stands on the wire: tag, length, content."""
    return varint(message.fields_by_name[name].number << 3 | 2) + varint(len(content)) + content


def decode(kind: type[_M], value: bytes) -> _M:
    """The message, or InvalidArgument (UNREADABLE_RECORD)."""
    try:
        return kind.FromString(value)
    except DecodeError as error:
        raise unreadable(kind.DESCRIPTOR.name, str(error)) from error


def unreadable(record: str, problem: str) -> InvalidArgument:
    """The error for bytes that are not the record they should be."""
    return InvalidArgument(f"not a readable {record}: {problem}", reason="UNREADABLE_RECORD")
