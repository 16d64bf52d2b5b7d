"""The rows of a CSV or CSV.gz file, in bounded pieces, with their line numbers, as far as the file can be read."""

import csv
import gzip
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from mesh.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_LONGEST_HEADER = 64 * 1024
_LONGEST_LINE = 256 * 1024
_BLOCK = 256 * 1024
_UNREADABLE_STREAM = (EOFError, zlib.error, OSError)


@dataclass(frozen=True, slots=True)
class Broken:
    """Lines that are no rows: csv could not take them apart."""

    line: int
    count: int
    problem: str


class Rows(NamedTuple):
    """Rows as texts, the line at which each begins, and what was broken right after them."""

    rows: list[list[str]]
    lines: Sequence[int]
    broken: Broken | None


class Table:
    """An open file: its header line, then its rows. Compression is found by content, the encoding is UTF-8, with or without BOM.

    Holds at most one piece of rows, and lines up to 256 KiB, whatever the file holds. Raises NotFound or InvalidArgument
    when there is nothing to read rows from.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem = ""
        self._raw = _open(path)
        try:
            self.size_bytes = path.stat().st_size
            self._text = self._decoded()
            self.header_line = self._header_line()
        except BaseException:
            self._raw.close()
            raise
        self._lines_done = 1
        self._reader = csv.reader(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._raw.close()

    @property
    def read_bytes(self) -> int:
        """How many bytes of the file have been read, of `size_bytes`."""
        return 0 if self._raw.closed or not self._raw.seekable() else min(self.size_bytes, self._raw.tell())

    def header(self, delimiter: str) -> list[str]:
        """The names in the header, without the spaces around them, when this separates them."""
        return [name.strip() for name in next(csv.reader([self.header_line], delimiter=delimiter), [])]

    def start(self, delimiter: str) -> None:
        """Names the delimiter of the rows; once, before `read`."""
        lines = iter(partial(self._text.readline, _LONGEST_LINE), "")
        self._reader = csv.reader(lines, delimiter=delimiter)

    def read(self, limit: int) -> Rows:
        """The next up to `limit` rows; nothing at the end. Where the file itself cannot be read on, it ends: `problem` says why
        and where. A broken row ends a piece early."""
        rows: list[list[str]] = []
        before = self._reader.line_num
        broken: csv.Error | None = None
        try:
            rows.extend(islice(self._reader, limit))  # keeps what it had got when it fails
        except csv.Error as error:
            broken = error
        except _UNREADABLE_STREAM as error:
            self.problem = _stream_problem(error, 1 + before + _lines_of(rows))
        first = self._lines_done + 1
        taken = _lines_of(rows) if broken or self.problem else self._reader.line_num - before
        lines: Sequence[int] = range(first, first + len(rows))
        if taken != len(rows):
            lines = list(accumulate((_lines_of([row]) for row in rows[:-1]), initial=first)) if rows else []
        spoiled = self._reader.line_num - before - taken if broken else 0
        self._lines_done += taken + spoiled
        return Rows(rows, lines, Broken(first + taken, spoiled, f"not a row: {broken}") if broken else None)

    def _decoded(self) -> io.TextIOWrapper:
        is_gzip = self._raw.peek(2)[:2] == b"\x1f\x8b"
        buffered = io.BufferedReader(_Unzipped(self._raw), _BLOCK) if is_gzip else self._raw
        try:
            head = buffered.peek(_LONGEST_HEADER)
        except _UNREADABLE_STREAM as error:
            raise _no_table(self.path, _stream_problem(error, 0)) from None
        if not head:
            raise _no_table(self.path, "the file is empty")
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise _no_table(self.path, "the text is UTF-16; save it as UTF-8")
        if b"\0" in head:
            raise _no_table(self.path, "not a text file")
        return io.TextIOWrapper(buffered, "utf-8-sig", "replace", newline="")

    def _header_line(self) -> str:
        try:
            line = self._text.readline(_LONGEST_HEADER)
        except _UNREADABLE_STREAM as error:
            raise _no_table(self.path, _stream_problem(error, 0)) from None
        if len(line) >= _LONGEST_HEADER:
            raise _no_table(self.path, f"not a CSV file: no end of line within the first {_LONGEST_HEADER} characters")
        return line


class _Unzipped(io.RawIOBase):
    """What a gzip file holds, up to the very place where it breaks off: one read of ours is one read of the file, where
    GzipFile's own `read` would gather several and lose them all when the last one fails."""

    def __init__(self, raw: io.BufferedReader) -> None:
        self._file = gzip.GzipFile(fileobj=raw)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        content = self._file.read1(len(view))
        view[: len(content)] = content
        return len(content)


def _open(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file", reason="NO_SUCH_FILE") from None
    except IsADirectoryError:
        raise InvalidArgument(
            f"{path} is a directory; name the files in it, for example {path}/*.csv.gz", reason="NOT_A_FILE"
        ) from None
    except OSError as error:
        raise InvalidArgument(f"{path}: cannot be opened: {error.strerror}", reason="UNREADABLE_FILE") from None


def _no_table(path: Path, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{path}: {problem}", reason="UNREADABLE_FILE")


def _stream_problem(error: BaseException, line: int) -> str:
    where = f"after line {line}" if line else "before its header"
    match error:
        case EOFError():
            return f"the gzip file is cut off {where}: what came before was read, the rest is not in this file"
        case zlib.error() | gzip.BadGzipFile():
            return f"the gzip file is damaged {where}: {error}"
        case _:
            return f"cannot be read on {where}: {error}"


def _lines_of(rows: list[list[str]]) -> int:
    """Lines that these rows take: one each, and one more for every line break inside a quoted field."""
    return len(rows) + sum("".join(row).replace("\r\n", "\n").replace("\r", "\n").count("\n") for row in rows)
