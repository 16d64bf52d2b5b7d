"""Real engines for the tests: the embedded PostgreSQL, fast because its data may be lost."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from mesh.adapters.embedded_postgres import EmbeddedPostgres, embedded_postgres


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """A new folder that the user of PostgreSQL can enter (pytest's own is for root alone), removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="wq-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


@asynccontextmanager
async def quick_postgres() -> AsyncIterator[EmbeddedPostgres]:
    """A server on a new folder, without fsync."""
    with reachable_folder() as folder:
        async with embedded_postgres(folder, fsync=False) as server:
            yield server
