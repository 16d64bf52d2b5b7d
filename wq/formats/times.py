"""How the text of a time becomes microseconds: whole columns by their layout, odd texts one by one."""

import re
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - local times have no zone yet
_AWARE_EPOCH = _EPOCH.replace(tzinfo=UTC)
_SECOND_US = 1_000_000
_ISO = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d{1,9})?)? ?(Z|[+-]\d\d:?\d\d)?", re.ASCII)
_UNIX = re.compile(r"-?\d{1,15}(\.\d{1,9})?", re.ASCII)
_DIRECTIVES = {"%Y": "YYYY", "%m": "mm", "%d": "dd", "%H": "HH", "%M": "MM", "%S": "SS", "%%": "%"}
_LAST_US = 253_370_764_800 * _SECOND_US  # 9999-01-01: later years are placeholders, and overflow with a zone


class Times(NamedTuple):
    """One entry per text: microseconds since 1970 of UTC where `absolute`, else of the local clock; only where `readable`."""

    us: NDArray[np.int64]
    absolute: NDArray[np.bool_]
    readable: NDArray[np.bool_]


def read_times(texts: list[str], format: str) -> Times:
    """Reads each text as "iso" (date and time, with or without seconds, fraction and offset), "unix" (seconds), "unix_ms" or a
    strptime pattern. A date without a time is unreadable as "iso"; years are 1 to 9998."""
    count = len(texts)
    times = Times(np.zeros(count, np.int64), np.zeros(count, bool), np.zeros(count, bool))
    if not count:
        return times
    try:
        letters = np.array(texts, "S")
    except UnicodeEncodeError:
        letters = np.array([text.encode("ascii", "replace") for text in texts], "S")
    matrix = letters.view(np.uint8).reshape(count, -1)
    lengths = np.char.str_len(letters)
    for length in np.unique(lengths):
        for layout in _layouts(format).get(int(length), ()):
            rows = np.flatnonzero((lengths == length) & ~times.readable)
            if len(rows):
                _read_layout(matrix[rows, :length], layout, rows, times)
    _one_by_one(texts, format, times)
    return times


@lru_cache(maxsize=64)
def _layouts(format: str) -> dict[int, list[str]]:
    """Layouts of fixed width, by their length: Y m d H M S f stand for digits, everything else for itself."""
    if format == "iso":
        bases = [f"YYYY-mm-dd{between}HH:MM" for between in " T"]
        ends = ["", ":SS", *(":SS." + "f" * digits for digits in range(1, 7))]
        layouts = [base + end + zone for base in bases for end in ends for zone in ("", "Z")]
    elif format.startswith("unix"):
        layouts = []
    else:
        pieces = re.findall(r"%.|[^%]", format)
        fixed = all(piece in _DIRECTIVES or (len(piece) == 1 and piece not in "YmdHMSfZ") for piece in pieces)
        complete = all(f"%{letter}" in pieces for letter in "Ymd")
        once = all(pieces.count(f"%{letter}") <= 1 for letter in "YmdHMS")
        layouts = ["".join(_DIRECTIVES.get(piece, piece) for piece in pieces)] if fixed and complete and once else []
    by_length: dict[int, list[str]] = {}
    for layout in layouts:
        by_length.setdefault(len(layout), []).append(layout)
    return by_length


def _read_layout(letters: NDArray[np.uint8], layout: str, rows: NDArray[np.intp], times: Times) -> None:
    """Fills in the rows (indexes into `times`) whose letters, shape (n, width), have this layout and are a real date."""
    parts = {name: np.zeros(len(rows), np.int64) for name in "YmdHMSf"}
    fits = np.ones(len(rows), bool)
    for column, name in zip(letters.T, layout, strict=True):
        if name in parts:
            digit = column.astype(np.int64) - ord("0")
            fits &= (digit >= 0) & (digit <= 9)
            parts[name] = parts[name] * 10 + digit
        else:
            fits &= column == ord(name)
    parts["f"] *= 10 ** (6 - layout.count("f")) if "f" in layout else 1
    fits &= (parts["Y"] >= 1) & (parts["Y"] <= 9998) & (parts["m"] >= 1) & (parts["m"] <= 12) & (parts["d"] >= 1)
    fits &= (parts["H"] < 24) & (parts["M"] < 60) & (parts["S"] < 60)
    months = np.where(fits, (parts["Y"] - 1970) * 12 + parts["m"] - 1, 0).astype("datetime64[M]")
    first_day = months.astype("datetime64[D]").astype(np.int64)
    fits &= parts["d"] <= (months + 1).astype("datetime64[D]").astype(np.int64) - first_day
    seconds = (first_day + parts["d"] - 1) * 86_400 + parts["H"] * 3600 + parts["M"] * 60 + parts["S"]
    times.us[rows[fits]] = (seconds * _SECOND_US + parts["f"])[fits]
    times.absolute[rows[fits]] = layout.endswith("Z")
    times.readable[rows[fits]] = True


def _one_by_one(texts: list[str], format: str, times: Times) -> None:
    """The rest: offsets other than Z, formats without a fixed width, and what is no time at all."""
    for row in np.flatnonzero(~times.readable):
        read = _read_unix(texts[row], format) if format.startswith("unix") else _read_text(texts[row].strip(), format)
        if read is not None and -62_135_596_800 * _SECOND_US <= read[0] < _LAST_US:
            times.us[row], times.absolute[row] = read
            times.readable[row] = True


def _read_unix(text: str, format: str) -> tuple[int, bool] | None:
    if not _UNIX.fullmatch(text.strip()):
        return None
    try:
        number = Decimal(text.strip()) * (1_000 if format == "unix_ms" else _SECOND_US)
    except InvalidOperation:
        return None
    return int(number), True


def _read_text(text: str, format: str) -> tuple[int, bool] | None:
    try:
        if format == "iso":
            moment = datetime.fromisoformat(text.replace(" +", "+").replace(" -", "-")) if _ISO.fullmatch(text) else None
        else:
            moment = datetime.strptime(text, format)  # noqa: DTZ007 - without %z the zone is applied later
    except ValueError:
        return None
    if moment is None:
        return None
    if moment.tzinfo is None:
        return (moment - _EPOCH) // (datetime.resolution), False
    return (moment - _AWARE_EPOCH) // datetime.resolution, True
