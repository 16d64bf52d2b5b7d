"""How are sites created, read, listed and changed?"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.codec.catalog import SITE_FIELDS
from mesh.errors import AlreadyExists, InvalidArgument, NotFound
from mesh.pages import page_size, read_cursor, write_cursor
from mesh.ports import Clock
from mesh.shards import transaction
from mesh.tokens import fingerprint
from query_svc.catalog_change import Requests, check_etag, masked, new_version, no_etag
from query_svc.catalog_checks import SOURCE_TYPES, check_site
from query_svc.catalog_tables import SITES
from query_svc.filters import MOST_REGIONS
from water.sites import Site

DEFAULT_PAGE, LONGEST_PAGE = 100, 1_000


class Sites:
    """Sites in the catalog database. A change is seen by every read that begins after its answer."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._requests = Requests(clock)

    async def create(self, site: Site, request_id: str) -> Site:
        """The site as stored. Raises AlreadyExists when the id is taken."""
        check_site(site)
        no_etag(site.etag, "site.etag")
        content = f"site {json.dumps(asdict(site), sort_keys=True)}"
        async with transaction(self._engine) as connection:
            answer = await self._requests.first_answer(connection, request_id, content)
            if answer is not None:
                return Site(**json.loads(answer))
            created = await _enter(connection, site)
            await self._requests.keep(connection, request_id, content, json.dumps(asdict(created)))
            await new_version(connection)
        return created

    async def get(self, site_id: str) -> Site:
        """Raises NotFound."""
        async with transaction(self._engine) as connection:
            return await _read(connection, site_id)

    async def list(self, size: int, token: str, regions: Sequence[str], source_type: int) -> tuple[list[Site], str]:
        """Sites by id, and the token of the next page, empty at the end."""
        limit = page_size(size, DEFAULT_PAGE, LONGEST_PAGE)
        _check_list(regions, source_type)
        question = fingerprint(repr((sorted(set(regions)), source_type)).encode())
        cursor = read_cursor("sites", question, token, [str])
        query = select(SITES).order_by(SITES.c.site_id).limit(limit + 1)
        query = query.where(SITES.c.site_id > cursor[0]) if cursor else query
        query = query.where(SITES.c.region.in_(regions)) if regions else query
        query = query.where(SITES.c.source_type == source_type) if source_type else query
        async with transaction(self._engine) as connection:
            sites = [site_of(row) for row in await connection.execute(query)]
        page = sites[:limit]
        return page, write_cursor("sites", question, [page[-1].site_id]) if len(sites) > limit else ""

    async def update(self, site: Site, paths: Sequence[str]) -> Site:
        """The site as stored. Raises NotFound, Conflict for an old etag, InvalidArgument for what cannot be changed so."""
        changed = masked(paths, SITE_FIELDS, site)
        async with transaction(self._engine) as connection:
            current = await _read(connection, site.site_id, locked=True)
            check_etag(site.etag, current.etag, f"site {site.site_id!r}")
            new = replace(current, **changed)
            check_site(new)
            revised = update(SITES).where(SITES.c.site_id == site.site_id).values(**_columns(new), revision=SITES.c.revision + 1)
            stored = site_of((await connection.execute(revised.returning(SITES))).one())
            await new_version(connection)
        return stored


async def _enter(connection: AsyncConnection, site: Site) -> Site:
    entering = insert(SITES).values(**_columns(site)).on_conflict_do_nothing().returning(SITES)
    row = (await connection.execute(entering)).first()
    if row is None:
        message = f"site {site.site_id!r} exists: take another id, or update it"
        raise AlreadyExists(message, reason="SITE_EXISTS", metadata={"site_id": site.site_id})
    return site_of(row)


async def _read(connection: AsyncConnection, site_id: str, *, locked: bool = False) -> Site:
    query = select(SITES).where(SITES.c.site_id == site_id)
    row = (await connection.execute(query.with_for_update() if locked else query)).first()
    if row is None:
        raise NotFound(f"no site {site_id[:80]!r}: see ListSites", reason="SITE_NOT_FOUND", metadata={"site_id": site_id[:80]})
    return site_of(row)


def _check_list(regions: Sequence[str], source_type: int) -> None:
    problems = {}
    if len(regions) > MOST_REGIONS:
        problems["regions"] = f"{len(regions)} given, at most {MOST_REGIONS}"
    if source_type not in (0, *SOURCE_TYPES):
        problems["source_type"] = f"{source_type} is not one of {', '.join(map(str, SOURCE_TYPES))}"
    if problems:
        raise InvalidArgument("; ".join(f"{field}: {problem}" for field, problem in problems.items()), fields=problems)


def _columns(site: Site) -> dict[str, Any]:
    return {name: value for name, value in asdict(site).items() if name != "etag"}


def site_of(row: Row[Any]) -> Site:
    """The site of a row of SITES."""
    columns = dict(row._mapping)
    return Site(etag=str(columns.pop("revision")), **columns)
