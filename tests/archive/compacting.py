"""Days that are put together, on whole deployments: a worker, what it made, and looks behind it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import text

from archive_svc.compact import Compact
from archive_svc.contents import pieces
from archive_svc.day_notes import DayNote, read_note, read_note_path
from archive_svc.manifest import Manifest, Wanted
from archive_svc.manifest_record import ManifestRow
from archive_svc.tables import COMPACTED
from archive_svc.unpacked import Unpacked, join
from archive_svc.verify import Verify
from mesh.clock import SystemClock
from mesh.ports import Objects
from mesh.shards import transaction
from mesh.stages import Progress
from tests.archive.restoring import Station

FOREVER_S = 1e9


@dataclass(slots=True)
class Compacting:
    """The worker of a station. Days of the past are over for it, and quiet at once."""

    station: Station

    def worker(self, objects: Objects | None = None, progress: Progress | None = None, **more: Any) -> Compact:
        settings = {"after_h": 1.0, "grace_s": FOREVER_S, "quiet_s": 0.0} | more
        mesh, clock = self.station.mesh, settings.pop("clock", SystemClock())
        progress = progress or Progress("compact")
        return Compact(mesh.log.log_id, objects or self.station.objects, mesh.catalog, progress, clock, **settings)

    async def rows(self) -> list[ManifestRow]:
        """The whole manifest, by path."""
        return (await Manifest(self.station.mesh.catalog).page(Wanted(), 1000, ""))[0]

    async def days(self) -> dict[str, Unpacked]:
        """What each compacted day has, by its folder; there is nothing else in the manifest."""
        found: dict[str, list[Unpacked]] = {}
        for row in await self.rows():
            assert row.topic == COMPACTED, row.path
            content = await self.station.objects.get(row.path)
            found.setdefault(row.path.rpartition("/")[0], []).extend(pieces(row.path, content))
        return {folder: join(some) for folder, some in found.items()}

    async def notes(self) -> list[DayNote]:
        """Those that are put, by path."""
        paths = [path async for path in self.station.objects.list("manifest/")]
        done = [path for path in paths if (found := read_note_path(path)) is not None and found[2]]
        return [read_note(path, await self.station.objects.get(path)) for path in done]

    async def is_sound(self) -> bool:
        """Whether a check of the whole archive finds nothing."""
        verify = Verify(Manifest(self.station.mesh.catalog), self.station.objects)
        found = [checked.damaged async for checked in verify.run(Wanted()) if checked.damaged]
        assert not found, found
        return True

    async def nothing_is_left_over(self) -> bool:
        """Whether everything that was put is in the manifest, or stands beside it."""
        rows = await self.rows()
        paths = [path async for path in self.station.objects.list("")]
        kinds = ("/conflicts/", "/verified/", "-done.txt")
        rest = sorted(path for path in paths if not any(kind in path for kind in kinds))
        expected = {row.path for row in rows} | {f"manifest/{self._inner(row)}" for row in rows}
        assert set(rest) == expected, set(rest) ^ expected
        return True

    def _inner(self, row: ManifestRow) -> str:
        return f"{row.log_id}/{row.path.removeprefix('water_quality_data/').removesuffix('.parquet')}.json"

    async def count(self, statement: str) -> int:
        async with transaction(self.station.mesh.catalog) as connection:
            return int((await connection.execute(text(statement))).scalar_one())


def is_sorted(found: Unpacked) -> bool:
    """Whether its keys ascend, each once."""
    sensor, time = found.readings.sensor_id, found.readings.measured_at_us
    later = (sensor[1:] > sensor[:-1]) | ((sensor[1:] == sensor[:-1]) & (time[1:] > time[:-1]))
    return bool(np.all(later))
