"""Random messages of any type of the contract, with a liking for what breaks programs."""

import math
from collections.abc import Callable
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

INTEGERS = [0, 1, -1, 7, 1_767_225_600, 2**31 - 1, -(2**31), 253_402_300_799, 2**53 + 1, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 1.0, 50.0, 100.5, -1e-45, 3.4e38, math.nan, math.inf, -math.inf]
TEXTS = [
    "",
    "north",
    "weir",
    "../../",
    "a\0b",
    "%",
    "'; DROP TABLE ledger; --",
    "ö" * 70,
    "x" * 5000,
    "{",
    "*",
    "name",
    "site_id",
]
MOST_REPEATED = 4
DEEPEST = 3
_Draw = Callable[[Any], Any]


@st.composite
def messages(draw: _Draw, kind: Descriptor, depth: int = DEEPEST) -> Message:
    """A message in which each field is absent, usual, extreme or random."""
    message = message_factory.GetMessageClass(kind)()
    for field in kind.fields:
        if field.message_type is not None and (depth == 0 or field.message_type.GetOptions().map_entry):
            continue
        for _ in range(draw(st.integers(0, MOST_REPEATED if field.is_repeated else 1))):
            _set(message, field, draw(_values(field, depth)))
    return message


def _set(message: Message, field: FieldDescriptor, value: Any) -> None:
    if field.is_repeated:
        getattr(message, field.name).append(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def _values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(field.message_type, depth - 1)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return st.sampled_from(FLOATS) | st.floats(width=32 if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT else 64)
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return st.binary(max_size=50)
        case FieldDescriptor.CPPTYPE_STRING:
            return st.sampled_from(TEXTS) | st.text(max_size=20)
        case FieldDescriptor.CPPTYPE_ENUM:
            return st.integers(0, 12) | st.integers(-(2**31), 2**31 - 1)
    low, high = _RANGES[field.cpp_type]
    return st.sampled_from([number for number in INTEGERS if low <= number <= high]) | st.integers(low, high)


_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
