"""How the text of a value becomes a number in the canonical unit; each different text is read once."""

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from wq.formats.units import Unit

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,19}", re.ASCII)
_REMEMBERED = 100_000
_TOO_LARGE = float(np.finfo(np.float32).max) * (1 + 2**-25)  # from here on a float32 would be infinite
NO_ID = np.iinfo(np.int64).min


class Values(dict[str, float]):
    """Text -> canonical value; NaN where the text means missing, infinity where it is no number (or too large for one).

    Remembers a bounded number of texts: instruments repeat themselves, so most lookups are a dict's.
    """

    def __init__(self, unit: Unit, missing: Iterable[str], decimal_comma: bool) -> None:
        super().__init__()
        self._unit = unit
        self._decimal_comma = decimal_comma
        self._missing = frozenset(missing)
        self._missing_numbers = {float(text) for text in self._missing if _NUMBER.fullmatch(text)}

    def column(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """The values of a column, float32."""
        return np.array(list(map(self.__getitem__, texts)), np.float32)

    def __missing__(self, text: str) -> float:
        if len(self) >= _REMEMBERED:
            self.clear()
        value = self[text] = self._read(text.strip())
        return value

    def _read(self, text: str) -> float:
        if text in self._missing:
            return np.nan
        if self._decimal_comma:
            text = "" if "." in text else text.replace(",", ".")
        if not _NUMBER.fullmatch(text):
            return np.inf
        number = float(text)
        if number in self._missing_numbers:
            return np.nan
        value = number * self._unit.factor + self._unit.offset
        return value if abs(value) < _TOO_LARGE else np.inf


class SensorIds(dict[str, int]):
    """Text -> sensor id; NO_ID where it is no 64-bit integer. Zero and negative ids are for the server to refuse."""

    def column(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """The ids of a column."""
        return np.array(list(map(self.__getitem__, texts)), np.int64)

    def __missing__(self, text: str) -> int:
        if len(self) >= _REMEMBERED:
            self.clear()
        number = int(text) if _INTEGER.fullmatch(text.strip()) else NO_ID
        value = self[text] = number if abs(number) < 2**63 else NO_ID
        return value
