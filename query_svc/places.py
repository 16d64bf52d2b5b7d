"""Which sensors are at a site today, and at which site is a sensor?"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.errors import NotFound, TooLarge
from mesh.shards import transaction

MOST_SENSORS_AT_SITES = 100_000


class Places:
    """Answers from the catalog's tables, each time anew."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def sensors_at(self, site_ids: Sequence[str]) -> NDArray[np.int64]:
        """Sorted, unique. Raises NotFound (SITE_NOT_FOUND) for a site that does not exist, TooLarge (TOO_MANY_SENSORS) when the
        sites have more than 100,000 sensors."""
        asked = {"sites": sorted(set(site_ids)), "most": MOST_SENSORS_AT_SITES + 1}
        async with transaction(self._engine) as connection:
            missing = (await connection.execute(text(_MISSING), asked)).scalars().all()
            sensors = (await connection.execute(text(_SENSORS), asked)).scalars().all()
        if missing:
            raise NotFound(f"no site {missing[0]!r}: see ListSites", reason="SITE_NOT_FOUND", metadata={"site_id": missing[0]})
        if len(sensors) > MOST_SENSORS_AT_SITES:
            message = f"these sites have more than {MOST_SENSORS_AT_SITES:,} sensors: ask for fewer sites at a time"
            raise TooLarge(message, reason="TOO_MANY_SENSORS")
        return np.array(sensors, np.int64)

    async def sites_of(self, sensors: NDArray[np.int64] | None) -> tuple[NDArray[np.int64], list[str]]:
        """Those of these sensors (None: of all) that are at a site, ascending, and the site of each. Raises TooLarge
        (TOO_MANY_SENSORS) beyond 100,000."""
        asked = {"sensors": None if sensors is None else sensors.tolist(), "most": MOST_SENSORS_AT_SITES + 1}
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(text(_SITES), asked)).all()
        if len(rows) > MOST_SENSORS_AT_SITES:
            message = f"more than {MOST_SENSORS_AT_SITES:,} sensors to be put together by site: name sensors or sites"
            raise TooLarge(message, reason="TOO_MANY_SENSORS")
        return np.array([sensor for sensor, _ in rows], np.int64), [site for _, site in rows]


_MISSING = """
SELECT asked FROM unnest(CAST(:sites AS text[])) AS asked
WHERE NOT EXISTS (SELECT FROM catalog.sites WHERE site_id = asked) ORDER BY 1
"""

_SENSORS = """
SELECT sensor_id FROM catalog.sensors WHERE site_id = ANY(CAST(:sites AS text[])) ORDER BY sensor_id LIMIT :most
"""

_SITES = """
SELECT sensor_id, site_id FROM catalog.sensors
WHERE site_id IS NOT NULL AND (CAST(:sensors AS bigint[]) IS NULL OR sensor_id = ANY(CAST(:sensors AS bigint[])))
ORDER BY sensor_id LIMIT :most
"""
