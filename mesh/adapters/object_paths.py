"""Which paths may an object have, and how large may it be for its reader? The same for every adapter of Objects."""

import re
from collections.abc import Sequence

from mesh.errors import InvalidArgument, TooLarge

PATH_LIMIT = 1024
_SEGMENT = re.compile(r"[A-Za-z0-9._=-]{1,255}", re.ASCII)


def segments_of(path: str) -> Sequence[str]:
    """The parts between the slashes. Raises InvalidArgument for a path outside the alphabet."""
    segments = path.split("/")
    for segment in segments:
        _check(segment, path)
    return segments


def check_prefix(prefix: str) -> None:
    """Raises InvalidArgument when no path could begin with it."""
    *above, begin = prefix.split("/")
    for segment in (*above, begin + "x"):
        _check(segment, prefix)


def is_segment(name: str) -> bool:
    """Whether a part of a path may be called so; `.` and `..`, which no listing brings, are not asked about."""
    return _SEGMENT.fullmatch(name) is not None


def too_large(path: str, size: int, limit: int) -> TooLarge:
    """The error for an object with more bytes than its reader takes."""
    return TooLarge(f"the object {path!r} has {size} bytes, more than the {limit} that it may have", reason="OBJECT_TOO_LARGE")


def _check(segment: str, path: str) -> None:
    if len(path) > PATH_LIMIT or segment in (".", "..") or not is_segment(segment):
        raise InvalidArgument(
            f"the object path {path[:80]!r} is not allowed: segments of 1 to 255 of a-z A-Z 0-9 . _ - =, none of them"
            f" . or .., between slashes, at most {PATH_LIMIT} characters"
        )
