"""The archive's tables of an older deployment get what was added since, and keep what they have."""

from sqlalchemy import text

from archive_svc.manifest_record import ManifestRow
from archive_svc.wiring import create_archive_tables
from mesh.shards import open_engine, transaction
from tests.conftest import FreshDatabase
from wq.migrations.catalog.c001_first import _ARCHIVE
from wq.migrations.statements import execute_all


async def test_tables_of_an_older_version_are_extended_and_keep_their_rows(fresh_database: FreshDatabase) -> None:
    engine = open_engine(await fresh_database(), 2)
    try:
        async with transaction(engine) as connection:
            await connection.run_sync(execute_all, _ARCHIVE)
            names = ", ".join(f'"{name}"' for name in ManifestRow.__slots__)
            values = "'p', 1, 1, 's', 0, 0, 'l', 'screened', 0, 0, 0, 0"
            await connection.execute(text(f"INSERT INTO archive.objects (region, {names}) VALUES ('north', {values})"))
        for _ in range(2):
            await create_archive_tables(engine)
        async with transaction(engine) as connection:
            found = await connection.execute(text("SELECT path, verified_us FROM archive.objects"))
            assert [tuple(row) for row in found] == [("p", None)]
            indexes = "SELECT indexname FROM pg_indexes WHERE schemaname = 'archive' AND tablename = 'objects'"
            found_names = set((await connection.execute(text(indexes))).scalars())
            assert {"objects_unverified", "objects_of_chunks"} <= found_names
            await connection.execute(text("SELECT by_json FROM archive.chunks"))
    finally:
        await engine.dispose()
