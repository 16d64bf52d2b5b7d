"""How an answer looks as JSON: proto field names, numbers as numbers, NaN as null, times as RFC 3339, enums by name."""

import json
import math
import sys
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp


def print_json(content: dict[str, Any]) -> None:
    """ONE object on stdout."""
    sys.stdout.write(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def plain(message: Message) -> dict[str, Any]:
    """All fields of the message, by their proto names; messages and optional fields that are not set are left out."""
    content: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        content[field.name] = [_plain(field, each) for each in value] if field.is_repeated else _plain(field, value)
    return content


def shortest(value: float) -> float | None:
    """A 32-bit float as the shortest decimal that means it (7.48, not 7.480000019073486); None for NaN and infinity."""
    return float(str(np.float32(value))) if math.isfinite(value) else None


def _plain(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return value.ToJsonString() if isinstance(value, Timestamp | Duration) else plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else int(value)
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return shortest(value)
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return value if math.isfinite(value) else None
    return value
