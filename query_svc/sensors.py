"""How are sensors created, read, listed and changed?"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.codec.catalog import SENSOR_FIELDS
from mesh.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from mesh.pages import page_size, read_cursor, write_cursor
from mesh.ports import Clock
from mesh.shards import transaction
from mesh.tokens import fingerprint
from query_svc.catalog_change import Requests, check_etag, masked, new_version, no_etag
from query_svc.catalog_checks import IN_SERVICE, STATES, check_sensor
from query_svc.catalog_tables import SENSORS, SITES
from query_svc.filters import MOST_SITES
from water.parameter import PARAMETERS
from water.sites import Sensor

DEFAULT_PAGE, LONGEST_PAGE = 100, 1_000


class Sensors:
    """Sensors in the catalog database. A change is seen by every read that begins after its answer."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._requests = Requests(clock)

    async def create(self, sensor: Sensor, request_id: str) -> Sensor:
        """The sensor as stored; its parameters, when none are given, are those that were seen. Raises AlreadyExists when a
        person has described the id, FailedPrecondition (SITE_NOT_FOUND) when its site does not exist."""
        sensor = replace(sensor, state=sensor.state or IN_SERVICE)
        check_sensor(sensor)
        no_etag(sensor.etag, "sensor.etag")
        content = f"sensor {json.dumps(asdict(sensor), sort_keys=True)}"
        async with transaction(self._engine) as connection:
            answer = await self._requests.first_answer(connection, request_id, content)
            if answer is not None:
                return _from_json(answer)
            created = await _enter(connection, sensor)
            await self._requests.keep(connection, request_id, content, json.dumps(asdict(created)))
            await new_version(connection)
        return created

    async def get(self, sensor_id: int) -> Sensor:
        """Raises NotFound."""
        async with transaction(self._engine) as connection:
            return await _read(connection, sensor_id)

    async def list(self, size: int, token: str, site_ids: Sequence[str], state: int) -> tuple[list[Sensor], str]:
        """Sensors by id, and the token of the next page, empty at the end."""
        limit = page_size(size, DEFAULT_PAGE, LONGEST_PAGE)
        _check_list(site_ids, state)
        question = fingerprint(repr((sorted(set(site_ids)), state)).encode())
        cursor = read_cursor("sensors", question, token, [int])
        query = select(SENSORS).order_by(SENSORS.c.sensor_id).limit(limit + 1)
        query = query.where(SENSORS.c.sensor_id > cursor[0]) if cursor else query
        query = query.where(SENSORS.c.site_id.in_(site_ids)) if site_ids else query
        query = query.where(SENSORS.c.state == state) if state else query
        async with transaction(self._engine) as connection:
            sensors = [sensor_of(row) for row in await connection.execute(query)]
        page = sensors[:limit]
        return page, write_cursor("sensors", question, [page[-1].sensor_id]) if len(sensors) > limit else ""

    async def update(self, sensor: Sensor, paths: Sequence[str]) -> Sensor:
        """The sensor as stored; from now on it counts as described. Raises NotFound, Conflict for an old etag,
        FailedPrecondition (SITE_NOT_FOUND), InvalidArgument for what cannot be changed so."""
        changed = masked(paths, SENSOR_FIELDS, sensor)
        async with transaction(self._engine) as connection:
            current = await _read(connection, sensor.sensor_id, locked=True)
            check_etag(sensor.etag, current.etag, f"sensor {sensor.sensor_id}")
            new = replace(current, **changed, first_sight=False)
            check_sensor(new)
            await _check_site(connection, new.site_id)
            values = _columns(new) | {"revision": SENSORS.c.revision + 1}
            revised = update(SENSORS).where(SENSORS.c.sensor_id == sensor.sensor_id).values(**values)
            stored = sensor_of((await connection.execute(revised.returning(SENSORS))).one())
            await new_version(connection)
        return stored


def parameter_bits(parameters: Sequence[int]) -> int:
    """As the column `parameters` holds them."""
    return sum(1 << (number - 1) for number in parameters)


async def _enter(connection: AsyncConnection, sensor: Sensor) -> Sensor:
    await _check_site(connection, sensor.site_id)
    values = _columns(replace(sensor, first_sight=False))
    filled = values | {"revision": SENSORS.c.revision + 1}
    if not sensor.parameters:
        del filled["parameters"]
    entering = insert(SENSORS).values(**values)
    entering = entering.on_conflict_do_update(index_elements=["sensor_id"], set_=filled, where=SENSORS.c.first_sight)
    row = (await connection.execute(entering.returning(SENSORS))).first()
    if row is None:
        message = f"sensor {sensor.sensor_id} was described before: update it"
        raise AlreadyExists(message, reason="SENSOR_EXISTS", metadata={"sensor_id": str(sensor.sensor_id)})
    return sensor_of(row)


async def _check_site(connection: AsyncConnection, site_id: str) -> None:
    found = select(SITES.c.site_id).where(SITES.c.site_id == site_id)
    if site_id and (await connection.execute(found)).first() is None:
        message = f"sensor.site_id: no site {site_id!r}, create it first"
        raise FailedPrecondition(message, reason="SITE_NOT_FOUND", metadata={"site_id": site_id})


async def _read(connection: AsyncConnection, sensor_id: int, *, locked: bool = False) -> Sensor:
    query = select(SENSORS).where(SENSORS.c.sensor_id == sensor_id)
    row = (await connection.execute(query.with_for_update() if locked else query)).first()
    if row is None:
        message = f"no sensor {sensor_id}: nobody described it and no reading of it was seen"
        raise NotFound(message, reason="SENSOR_NOT_FOUND", metadata={"sensor_id": str(sensor_id)})
    return sensor_of(row)


def _check_list(site_ids: Sequence[str], state: int) -> None:
    problems = {}
    if len(site_ids) > MOST_SITES:
        problems["site_ids"] = f"{len(site_ids)} given, at most {MOST_SITES}"
    if state not in (0, *STATES):
        problems["state"] = f"{state} is not one of {', '.join(map(str, STATES))}"
    if problems:
        raise InvalidArgument("; ".join(f"{field}: {problem}" for field, problem in problems.items()), fields=problems)


def _columns(sensor: Sensor) -> dict[str, Any]:
    columns = {name: value for name, value in asdict(sensor).items() if name != "etag"}
    return columns | {"site_id": sensor.site_id or None, "parameters": parameter_bits(sensor.parameters)}


def sensor_of(row: Row[Any]) -> Sensor:
    """The sensor of a row of SENSORS."""
    columns = dict(row._mapping)
    bits = columns.pop("parameters")
    present = tuple(parameter.number for parameter in PARAMETERS if bits >> (parameter.number - 1) & 1)
    return Sensor(etag=str(columns.pop("revision")), parameters=present, site_id=columns.pop("site_id") or "", **columns)


def _from_json(text: str) -> Sensor:
    fields = json.loads(text)
    return Sensor(**fields | {"parameters": tuple(fields["parameters"])})
