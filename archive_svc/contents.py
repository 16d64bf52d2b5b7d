"""How are readings written into an object and read from it, whatever format its path names?"""

from collections.abc import Iterator

from archive_svc.manifest_record import JSON_SUFFIX
from archive_svc.pack import pack, pieces_of
from archive_svc.pack_json import pack_json, unpack_json
from archive_svc.unpacked import Unpacked


def write_object(path: str, found: Unpacked) -> bytes:
    """The bytes of a chunk's object at this path, in the order of an object. Blocks: run it in a thread."""
    if not path.endswith(JSON_SUFFIX):
        return pack(found.readings, found.region, found.places, found.log_id)
    return pack_json(found.in_order())


def pieces(path: str, content: bytes) -> Iterator[Unpacked]:
    """What the object at this path holds, piece by piece. Raises InvalidArgument (UNREADABLE_OBJECT) for anything else than such
    an object. Blocks: run each step in a thread."""
    if path.endswith(JSON_SUFFIX):
        yield unpack_json(content)
    else:
        yield from pieces_of(content)
