"""What happens when the embedded PostgreSQL dies while we live: it is started again on the same data."""

import asyncio
import shutil

import structlog

from mesh.adapters.embedded_postgres import MIN_FREE_BYTES, EmbeddedPostgres
from mesh.errors import SetupError, Unavailable
from mesh.ports import Clock
from mesh.stages import Progress

_log = structlog.get_logger()
LOOK_S = 0.5
LEAST_FREE_BYTES = 64 * 2**20  # a server that died of a full disk needs some of it to recover


class PostgresWatch:
    """Looks after a server that this process has started or adopted. When it answers again, everything that was committed is
    there; its sessions are gone, and whoever had one opens another."""

    def __init__(self, server: EmbeddedPostgres, progress: Progress, clock: Clock) -> None:
        if server.cluster is None:
            raise ValueError("only a server that this process has started can be started again")
        self._server = server
        self._cluster = server.cluster
        self._progress = progress
        self._clock = clock
        self._told_dead = 0

    async def run(self) -> None:
        """Until cancelled; then a start that has begun is still finished. `progress.problem` says that the server is dead or
        its disk nearly full. Raises Unavailable, with the mend, where it cannot be started now: run it again soon."""
        while True:
            if not self._cluster.is_alive(self._server.pid):
                await self._revive()
            self._progress.problem = self._nearly_full()
            await self._clock.sleep(LOOK_S)

    async def _revive(self) -> None:
        self._tell_death()
        if (free := self._free_bytes()) < LEAST_FREE_BYTES:
            raise Unavailable(
                f"PostgreSQL has died and its disk is full: only {free // 2**20} MiB are free where {self._cluster.folder} lies; "
                f"make room: it is started again when {LEAST_FREE_BYTES // 2**20} MiB are free",
                reason="DISK_FULL",
            )
        starting = asyncio.ensure_future(asyncio.to_thread(self._start))
        try:
            self._server.pid = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.gather(starting, return_exceptions=True)  # what is half started cannot be stopped
            raise
        except SetupError as error:
            raise Unavailable(error.message, reason="DATABASE_AWAY") from error
        _log.info("PostgreSQL runs again", pid=self._server.pid)

    def _tell_death(self) -> None:
        """Once for each death, however often a start is tried."""
        if self._told_dead != self._server.pid:
            self._told_dead = self._server.pid
            self._progress.problem = f"PostgreSQL (process {self._server.pid}) has died; it is started again"
            _log.warning("PostgreSQL has died, it is started again", pid=self._server.pid, log=str(self._cluster.log))

    def _start(self) -> int:
        return self._cluster.adopt(self._server.password) or self._cluster.start(self._server.password)

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._cluster.folder).free

    def _nearly_full(self) -> str:
        if (free := self._free_bytes()) >= MIN_FREE_BYTES:
            return ""
        return f"only {free // 2**20} MiB are free where {self._cluster.folder} lies: make room before PostgreSQL stops"
