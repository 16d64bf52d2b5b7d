"""What the page must know to show values: parameters, kinds, states and flags, from our own tables and contracts."""

import json
import math

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.timestamp_pb2 import Timestamp
from waterquality.v1 import alert_pb2, catalog_pb2

from water import flags
from water.parameter import BY_NUMBER, PARAMETERS, Parameter

_WRITTEN = {"degC": "°C", "uS/cm": "µS/cm", "m3/h": "m³/h"}
_FLAGS = {
    flags.GOOD: "good",
    flags.NOT_EVALUATED: "not evaluated",
    flags.SUSPECT: "suspect",
    flags.FAIL: "fail",
    flags.MISSING: "missing",
}


def about() -> str:
    """The tables as JSON: parameters in their order, and names of the flags' numbers."""
    parameters = [
        {"number": one.number, "label": one.label, "unit": unit(one), "decimals": decimals(one), "column": one.column}
        for one in PARAMETERS
    ]
    return write({"parameters": parameters, "flags": {str(number): name for number, name in _FLAGS.items()}})


def unit(parameter: Parameter) -> str:
    """As people write it."""
    return _WRITTEN.get(parameter.unit, parameter.unit)


def decimals(parameter: Parameter) -> int:
    """As many as the resolution has."""
    return max(0, -math.floor(math.log10(parameter.resolution)))


def rounded(value: float, number: int) -> float | None:
    """A value with one decimal more than is shown; None where it is no number."""
    known = BY_NUMBER.get(number)
    return round(value, decimals(known) + 1 if known else 3) if math.isfinite(value) else None


def name_of(enum: EnumDescriptor, number: int, prefix: str) -> str:
    """`contamination` for CONDITION_KIND_CONTAMINATION; `unknown 9` for what a newer server says."""
    known = enum.values_by_number.get(number)
    return known.name.removeprefix(prefix).lower().replace("_", " ") if known else f"unknown {number}"


def kind_of(number: int) -> str:
    return name_of(alert_pb2.ConditionKind.DESCRIPTOR, number, "CONDITION_KIND_")


def state_of(number: int) -> str:
    return name_of(alert_pb2.AlertState.DESCRIPTOR, number, "ALERT_STATE_")


def source_type_of(number: int) -> str:
    return name_of(catalog_pb2.SourceType.DESCRIPTOR, number, "SOURCE_TYPE_")


def sensor_state_of(number: int) -> str:
    return name_of(catalog_pb2.SensorState.DESCRIPTOR, number, "SENSOR_STATE_")


def time_us(moment: Timestamp) -> int:
    """Microseconds since 1970, rounded down: JavaScript has whole numbers up to 2^53, enough until the year 2255."""
    return moment.seconds * 1_000_000 + moment.nanos // 1000


def write(content: object) -> str:
    """JSON on one line; NaN is a defect of the caller."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
