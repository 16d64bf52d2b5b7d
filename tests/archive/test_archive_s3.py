"""The archive in a bucket: made, checked, compacted and restored from, as in a directory."""

from pathlib import Path

from archive_svc.manifest import Manifest, Wanted
from archive_svc.verify import Verify
from mesh.adapters.s3 import S3Settings
from mesh.codec.verified_days import is_verified
from tests.archive.compacting import Compacting
from tests.archive.restoring import Station, send_history, station
from tests.conftest import FreshDatabase
from tests.contract.s3_engine import s3_client, s3_objects


async def test_a_bucket_holds_an_archive(
    s3_settings: S3Settings, fresh_database: FreshDatabase, tmp_path: Path, second: Station
) -> None:
    async with s3_objects(s3_settings) as objects, station(fresh_database, tmp_path / "unused") as source:
        source.objects = objects
        await send_history(source.mesh)
        await source.record_and_archive()
        compacting = Compacting(source)
        assert await compacting.is_sound()
        assert await compacting.worker(grace_s=-1.0).once() > 0
        assert await compacting.nothing_is_left_over()
        assert [path async for path in objects.list("manifest/") if is_verified(path)]
        second.sources["bucket"] = objects
        await second.restore_all("bucket")
        assert await second.table() == await source.table()
        row = (await compacting.rows())[0]
        with s3_client(s3_settings) as client:
            client.put_object(Bucket=s3_settings.bucket, Key=row.path, Body=b"somebody else's")
        found = [one async for one in Verify(Manifest(source.mesh.catalog), objects).run(Wanted())]
        (damaged,) = [one.damaged for one in found if one.damaged]
        assert damaged.path == row.path
        assert "is damaged" in damaged.problem or "replaced" in damaged.problem
