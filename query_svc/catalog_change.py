"""How does a person's change of the catalog become one transaction: done once, and in a new version?"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.errors import Conflict, InvalidArgument
from mesh.ports import Clock
from query_svc.catalog_tables import REQUESTS

REQUESTS_KEPT_US = 2 * 24 * 3_600_000_000
LONGEST_REQUEST_ID = 128


async def new_version(connection: AsyncConnection) -> None:
    """Makes this transaction's commit a new version of the catalog. Call it last: from here on other changes wait."""
    await connection.execute(text("UPDATE catalog.version SET newest = newest + 1"))


class Requests:
    """First results of requests with an id, kept for two days."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def first_answer(self, connection: AsyncConnection, request_id: str, content: str) -> str | None:
        """What the request was answered, None: it is the first of its id (and holds a lock on it until the transaction ends),
        or has none. Raises InvalidArgument (REQUEST_ID_REUSED) when the id was used for another content."""
        if not request_id:
            return None
        if len(request_id) > LONGEST_REQUEST_ID or not request_id.isprintable():
            problem = f"at most {LONGEST_REQUEST_ID} printable characters, {len(request_id)} given"
            raise InvalidArgument(f"request_id: {problem}", fields={"request_id": problem})
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:id, 0))"), {"id": f"catalog {request_id}"})
        found = (await connection.execute(select(REQUESTS).where(REQUESTS.c.request_id == request_id))).first()
        if found is None:
            return None
        if found.digest != _digest(content):
            problem = "was used for another request: take a new one for each"
            raise InvalidArgument(f"request_id: {problem}", reason="REQUEST_ID_REUSED", fields={"request_id": problem})
        return str(found.answer)

    async def keep(self, connection: AsyncConnection, request_id: str, content: str, answer: str) -> None:
        """Remembers the answer, in this transaction, and forgets those of more than two days ago."""
        if not request_id:
            return
        now_us = self._clock.now_us()
        row = {"request_id": request_id, "digest": _digest(content), "answer": answer, "answered_us": now_us}
        await connection.execute(REQUESTS.delete().where(REQUESTS.c.answered_us < now_us - REQUESTS_KEPT_US))
        await connection.execute(insert(REQUESTS).values(row))


def masked(paths: Sequence[str], known: Mapping[str, str], new: object) -> dict[str, Any]:
    """The attributes that an update mask names, with their new values. Raises InvalidArgument for an empty mask and for paths
    that cannot be changed."""
    unknown = [path for path in paths if path not in known]
    if unknown or not paths:
        problem = f"{unknown[0]!r} cannot be changed" if unknown else "names nothing"
        problem += f": name some of {', '.join(sorted(known))}"
        raise InvalidArgument(f"update_mask: {problem}", reason="INVALID_MASK", fields={"update_mask": problem})
    return {known[path]: getattr(new, known[path]) for path in paths}


def check_etag(given: str, current: str, what: str) -> None:
    """Raises Conflict (ETAG_MISMATCH) unless the etag is empty or the current one."""
    if given and given != current:
        message = f"{what} was changed by somebody else (etag {current!r}, not {given[:40]!r}): read it again, then change it"
        raise Conflict(message, reason="ETAG_MISMATCH", metadata={"etag": current})


def no_etag(etag: str, field: str) -> None:
    """Raises InvalidArgument when something new is given an etag."""
    if etag:
        problem = "is given by the server: leave it empty"
        raise InvalidArgument(f"{field}: {problem}", fields={field: problem})


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()
