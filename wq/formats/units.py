"""How a value in a file's unit becomes the canonical value of its parameter.

The rule, the same for every value: the decimal text is read as a 64-bit float, multiplied by the unit's factor, the unit's
offset is added, and the result is rounded once, to a 32-bit float. So 0.414 mS/cm is float32(0.414 * 1000.0) uS/cm.
"""

from dataclasses import dataclass

from mesh.errors import InvalidArgument
from water.parameter import BY_COLUMN


@dataclass(frozen=True, slots=True)
class Unit:
    """canonical value = value * factor + offset, in 64-bit floats."""

    factor: float
    offset: float = 0.0


_SAME = Unit(1.0)
_MASS = {"mg/L": _SAME, "ug/L": Unit(0.001), "g/m3": _SAME, "ppm": _SAME}
UNITS: dict[str, dict[str, Unit]] = {
    "ph": {"": _SAME, "pH": _SAME},
    "turbidity_ntu": {"NTU": _SAME},
    "temperature_c": {"degC": _SAME, "degF": Unit(5 / 9, -160 / 9), "K": Unit(1.0, -273.15)},
    "dissolved_oxygen_mg_l": _MASS | {"umol/L": Unit(0.0319988)},  # molar mass of O2: 31.9988 g/mol (IUPAC 2021)
    "conductivity_us_cm": {
        "uS/cm": _SAME,
        "mS/cm": Unit(1000.0),
        "mS/m": Unit(10.0),
        "dS/m": Unit(1000.0),
        "S/m": Unit(10_000.0),
    },
    "disinfectant_mg_l": _MASS,
    "redox_mv": {"mV": _SAME, "V": Unit(1000.0)},
    "flow_m3_h": {
        "m3/h": _SAME,
        "m3/s": Unit(3600.0),
        "m3/d": Unit(1 / 24),
        "L/s": Unit(3.6),
        "L/min": Unit(0.06),
        "L/h": Unit(0.001),
    },
}
_SPELLINGS = {"µ": "u", "μ": "u", "°": "deg", "³": "3", "mg/l": "mg/L", "ug/l": "ug/L", "umol/l": "umol/L"}


def unit_of(parameter: str, unit: str) -> Unit:
    """The unit of a parameter (its name in ReadingColumns). Raises InvalidArgument that names what would be right."""
    if parameter not in UNITS:
        raise InvalidArgument(f"{parameter!r} is no parameter; the parameters are {', '.join(BY_COLUMN)}")
    plain = unit
    for spelling, meant in _SPELLINGS.items():
        plain = plain.replace(spelling, meant)
    known = UNITS[parameter]
    if plain not in known:
        listed = ", ".join(name for name in known if name) or "none"
        raise InvalidArgument(f"{unit!r} is no unit of {parameter}; known are {listed}")
    return known[plain]
