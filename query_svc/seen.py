"""Enters each (sensor, region) into sensors_seen when its first reading is stored; asks the database only about new ones."""

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from query_svc.rows import STORED, Rows

MOST_KNOWN = 2_000_000
_Known = dict[str, NDArray[np.int64]]


class Seen:
    """The pairs of one shard that are known to be entered: at most 2,000,000 (16 MB), then forgotten and learnt again."""

    def __init__(self) -> None:
        self._known: _Known = {}

    async def enter(self, connection: AsyncConnection, rows: Rows, outcome: NDArray[np.int8]) -> _Known:
        """Enters what is new among the stored rows, with the earliest of their times. Call `remember` with the answer once
        the transaction is committed."""
        take = np.flatnonzero(outcome == STORED)
        regions, region_of_record = np.unique([record.region for record in rows.records], return_inverse=True)
        region_of_row = region_of_record[rows.record[take]]
        new: _Known = {}
        for number, region in enumerate(regions.tolist()):
            mine = take[region_of_row == number]
            sensors = rows.readings.sensor_id[mine]  # in runs, each by time
            first = np.flatnonzero(np.diff(sensors, prepend=~sensors[:1]))
            sensors = sensors[first]
            fresh = ~np.isin(sensors, self._known.get(region, _NONE), assume_unique=True)
            if fresh.any():
                new[region] = sensors[fresh]
                times = rows.readings.measured_at_us[mine[first[fresh]]]
                arguments = {"region": region, "sensors": new[region].tolist(), "times": times.tolist()}
                await connection.execute(text(_ENTER), arguments)
        return new

    def remember(self, new: _Known) -> None:
        """These are entered, durably."""
        if sum(map(len, self._known.values())) + sum(map(len, new.values())) > MOST_KNOWN:
            self._known.clear()
        for region, sensors in new.items():
            self._known[region] = np.union1d(self._known.get(region, _NONE), sensors)


_NONE = np.empty(0, np.int64)

_ENTER = """
INSERT INTO sensors_seen (sensor_id, region, first_time)
SELECT s.sensor_id, :region, timestamptz 'epoch' + s.at_us * interval '1 microsecond'
FROM unnest(CAST(:sensors AS bigint[]), CAST(:times AS bigint[])) WITH ORDINALITY AS s (sensor_id, at_us, place) ORDER BY s.place
ON CONFLICT DO NOTHING
"""
