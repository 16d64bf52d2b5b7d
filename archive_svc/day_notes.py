"""What lies beside the manifest records of a day that is compacted: which objects stand in the place of which others.

`manifest/<log_id>/compactions/<region>/<year>/<month>/<day>/<name>-begun.txt` is put before the objects, and deleted when
`...-done.txt` is there: so objects that were left behind by a killed attempt are told from those that the archive stands by.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date
from typing import Any

from archive_svc.manifest_record import DATA, MANIFEST, day_folder
from mesh.errors import InvalidArgument

MOST_NOTE_BYTES = 4 * 1024 * 1024
_NAME = r"day-[A-Za-z0-9_-]{1,8}-\d{16}-[0-9a-f]{8}"
_STEM = rf"[a-z0-9_-]{{1,20}}/\d{{4}}/\d\d/\d\d/{_NAME}"
_NOTE = re.compile(rf"{MANIFEST}/([A-Za-z0-9_-]{{1,64}})/compactions/({_STEM})-(begun|done)\.txt", re.ASCII)
_OBJECT = re.compile(rf"({DATA}/{_STEM})-[^/]+", re.ASCII)
_WHOLE_STEM = re.compile(rf"{DATA}/{_STEM}", re.ASCII)


@dataclass(frozen=True, slots=True)
class DayNote:
    """The objects whose paths begin with `stem` hold what all objects of chunks of this log, region and day held that end at or
    before `until` (by topic and partition), and what those of the stems in `replaces` held: `part_count` readings. Left out are
    duplicates, and those that were known to have lost; `undecided_count` share their key with others of other values, of which
    it was not known which had lost. So part_count = reading_count + duplicate_count + loser_count."""

    log_id: str
    stem: str
    until: Mapping[tuple[str, int], int]
    replaces: tuple[str, ...]
    object_count: int
    part_count: int
    reading_count: int
    duplicate_count: int
    loser_count: int
    undecided_count: int

    @property
    def region(self) -> str:
        """That of its day."""
        return self.stem.split("/")[1]


def make_stem(region: str, day: date, log_id: str, begun_us: int, token: str) -> str:
    """With what the paths of the objects of a compaction begin; `token`: 8 hexadecimal digits."""
    return f"{day_folder(region, day)}/day-{log_id[:8]}-{begun_us:016}-{token}"


def stem_of(path: str) -> str:
    """The stem of an object of a compacted day; empty for any other path."""
    found = _OBJECT.fullmatch(path)
    return found[1] if found else ""


def begun_path(log_id: str, stem: str) -> str:
    """Where it is said that an attempt was begun."""
    return f"{MANIFEST}/{log_id}/compactions/{stem.removeprefix(f'{DATA}/')}-begun.txt"


def done_path(log_id: str, stem: str) -> str:
    """Where the note of a compaction lies."""
    return begun_path(log_id, stem).removesuffix("-begun.txt") + "-done.txt"


def read_note_path(path: str) -> tuple[str, str, bool] | None:
    """The log, the stem and whether it is done, that the path of a note tells; None: it is no note's."""
    found = _NOTE.fullmatch(path)
    return (found[1], f"{DATA}/{found[2]}", found[3] == "done") if found else None


def write_note(note: DayNote) -> bytes:
    """The bytes of the note: the same note, the same bytes."""
    until = [[*place, offset] for place, offset in sorted(note.until.items())]
    return json.dumps(asdict(note) | {"until": until}, sort_keys=True, indent=1).encode() + b"\n"


def read_note(path: str, content: bytes) -> DayNote:
    """The inverse, of a note at this path. Raises InvalidArgument (INVALID_MANIFEST) for anything else."""
    try:
        given = json.loads(content)
        note = DayNote(**{field.name: _VALUES[field.name](given[field.name]) for field in fields(DayNote)})
        counts = note.reading_count + note.duplicate_count + note.loser_count
        if done_path(note.log_id, note.stem) == path and _WHOLE_STEM.fullmatch(note.stem) and counts == note.part_count:
            return note
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise InvalidArgument(f"{path!r} is no note of a compacted day", reason="INVALID_MANIFEST")


def _text(given: Any) -> str:
    if type(given) is not str:
        raise ValueError
    return given


def _count(given: Any) -> int:
    if type(given) is not int or given < 0:
        raise ValueError
    return given


def _until(given: Any) -> dict[tuple[str, int], int]:
    return {(_text(topic), _count(number)): _count(offset) for topic, number, offset in given}


_VALUES: dict[str, Any] = {field.name: _count for field in fields(DayNote)} | {
    "log_id": _text,
    "stem": _text,
    "until": _until,
    "replaces": lambda given: tuple(map(_text, given)),
}
