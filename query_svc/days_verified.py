"""What does the archive say that it holds? Its newest word, looked for in the objects."""

from mesh.codec.verified_days import VerifiedDays, is_verified, read_verified, verified_folder
from mesh.errors import NotFound
from mesh.ports import Objects


async def newest_word(objects: Objects, log_id: str) -> VerifiedDays | None:
    """The word about this log that was said last; None: there is none. Raises Unavailable when the objects are away,
    InvalidArgument when a word was changed."""
    newest: VerifiedDays | None = None
    paths = [path async for path in objects.list(verified_folder(log_id)) if is_verified(path)]
    for path in paths:
        try:
            word = read_verified(path, await objects.get(path))
        except NotFound:  # replaced meanwhile by one that says more
            continue
        if newest is None or word.said_us > newest.said_us:
            newest = word
    return newest
