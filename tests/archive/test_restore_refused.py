"""A restore believes nothing: archives that are not there or damaged, and deployments that are not empty, are refused by name."""

import json
from pathlib import Path

import pytest

from archive_svc.manifest import Wanted
from mesh.adapters.directory import DirectoryObjects
from mesh.codec.log_records import ContextChange, write_context
from mesh.errors import FailedPrecondition, InvalidArgument, NotFound, WaterError
from mesh.ports import Partition
from mesh.topics import ACCEPTED
from tests.archive.restoring import Station, files, random_flags, station
from tests.builders import START_US, some_readings
from tests.query.deployment import FreshDatabase, record_all, stored


async def refusal(one: Station, source: str = "old", wanted: Wanted | None = None) -> WaterError:
    with pytest.raises(WaterError) as refused:
        [_ async for _ in one.restore().run(wanted or Wanted(), source)]
    return refused.value


async def test_an_archive_that_is_not_configured_is_not_found_and_those_that_are_are_listed(second: Station) -> None:
    second.sources["older"] = second.objects
    error = await refusal(second, "new")
    assert isinstance(error, NotFound)
    assert error.reason == "UNKNOWN_ARCHIVE"
    assert "'new'" in error.message
    assert "old, older" in error.message


async def test_a_directory_without_a_manifest_is_refused(second: Station, tmp_path: Path) -> None:
    for folder in (tmp_path / "nothing", tmp_path):
        second.sources["empty"] = DirectoryObjects(folder)
        error = await refusal(second, "empty")
        assert isinstance(error, FailedPrecondition)
        assert error.reason == "NO_MANIFEST"
        assert "'empty'" in error.message


async def test_a_wrong_filter_is_refused_before_anything_else(second: Station) -> None:
    error = await refusal(second, "unknown", Wanted(("../etc",), 5, 5))
    assert isinstance(error, InvalidArgument)
    assert set(error.fields) == {"filter.regions", "filter.end_time"}


async def test_readings_that_were_accepted_make_a_deployment_not_empty(second: Station) -> None:
    change = write_context(ContextChange(2, 1, "contexts/x", "0" * 64))
    await second.mesh.append(Partition(ACCEPTED, 1), change)
    await second.mesh.accept(some_readings(1), 1)
    error = await refusal(second)
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "NOT_EMPTY"
    assert "its log has readings of gateways" in error.message
    assert "`wq up --no-fleet --data NEW_DIRECTORY`" in error.message
    assert "`archives`" in error.message
    await nothing_was_restored(second)


async def test_contexts_alone_leave_a_deployment_empty(first: Station, second: Station) -> None:
    change = write_context(ContextChange(2, 1, "contexts/x", "0" * 64))
    for _ in range(600):
        await second.mesh.append(Partition(ACCEPTED, 1), change)
    await second.restore_all("old")
    assert await second.table() == await first.table()


async def test_readings_that_are_recorded_make_a_deployment_not_empty(second: Station) -> None:
    await second.mesh.put(random_flags(some_readings(5), 1))
    await record_all(second.mesh)
    error = await refusal(second)
    assert error.reason == "NOT_EMPTY"
    assert "recorded" in error.message
    assert await stored(second.mesh) == 5


async def test_what_was_restored_from_another_archive_makes_a_deployment_not_empty(
    second: Station, fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    async with station(fresh_database, tmp_path / "third") as third:
        await third.mesh.put(random_flags(some_readings(5, start=START_US), 1))
        await third.record_and_archive()
        second.sources["third"] = third.objects
        await second.restore_all("third")
        error = await refusal(second)
        assert error.reason == "NOT_EMPTY"
        assert "1 objects that the archive 'old' does not have" in error.message
        assert await second.table() == await third.table()
        await second.restore_all("third")
        assert await second.table() == await third.table()


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("path", "/etc/passwd", "UNSAFE_PATH"),
        ("path", "water_quality_data/north/2026/01/01/../../../../../../x.parquet", "UNSAFE_PATH"),
        ("path", "water_quality_data/north/2026/01/01/x.parquet", "INVALID_MANIFEST"),
        ("sha256", "0" * 63, "INVALID_MANIFEST"),
        ("reading_count", -1, "INVALID_MANIFEST"),
        ("log_id", "another", "INVALID_MANIFEST"),
    ],
)
async def test_a_manifest_that_nobody_of_ours_wrote_is_refused_and_nothing_is_restored(
    first: Station, second: Station, field: str, value: object, reason: str
) -> None:
    record = files(first.folder / "manifest", ".json")[3]
    record.write_text(json.dumps({**json.loads(record.read_text()), field: value}))
    error = await refusal(second)
    assert isinstance(error, FailedPrecondition)
    assert error.reason == reason
    assert error.metadata["path"] == str(record.relative_to(first.folder))
    assert not list(second.folder.rglob("*.parquet"))
    await nothing_was_restored(second)


async def test_two_records_of_one_object_are_refused(first: Station, second: Station) -> None:
    record = files(first.folder / "manifest", ".json")[3]
    inner = record.relative_to(first.folder / "manifest" / first.mesh.log.log_id)
    other = first.folder / "manifest" / "another" / inner
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps({**json.loads(record.read_text()), "log_id": "another"}))
    error = await refusal(second)
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "INVALID_MANIFEST"
    assert "two" in error.message
    assert json.loads(record.read_text())["path"] in error.message
    await nothing_was_restored(second)


@pytest.mark.parametrize("harm", ["truncated", "flipped", "missing", "link", "folder", "exchanged"])
async def test_a_damaged_object_is_refused_by_name_and_brought_back_the_restore_goes_on(
    first: Station, second: Station, harm: str
) -> None:
    objects = files(first.folder / "water_quality_data", ".parquet")
    damaged = objects[2]
    content = damaged.read_bytes()
    damaged.unlink()
    match harm:
        case "truncated":
            damaged.write_bytes(content[:-100])
        case "flipped":
            damaged.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
        case "exchanged":
            damaged.write_bytes(objects[3].read_bytes())
        case "link":
            damaged.symlink_to("/etc/passwd")
        case "folder":
            damaged.mkdir()
    error = await refusal(second)
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "OBJECT_DAMAGED"
    assert error.metadata["path"] == str(damaged.relative_to(first.folder))
    await second.record_restored()
    table = await first.table()
    assert set(await second.table()) < set(table), "nothing is invented"
    if harm == "folder":
        damaged.rmdir()
    else:
        damaged.unlink(missing_ok=True)
    damaged.write_bytes(content)
    await second.restore_all("old")
    assert await second.table() == table


@pytest.mark.parametrize("harm", ["missing", "cut", "changed", "renamed"])
async def test_losers_that_are_not_all_there_are_refused_before_anything_is_restored(
    first: Station, second: Station, harm: str
) -> None:
    await first.mesh.put(random_flags(some_readings(5, sensors=30), 1))
    again = some_readings(100, sensors=100, start=START_US - 10**12)
    for ph in (1.0, 2.0):
        values = again.values.copy()
        values[0] = ph
        await first.mesh.put(random_flags(type(again)(again.sensor_id, again.measured_at_us, values), 1))
    await first.record_and_archive()
    conflicts = files(first.folder / "manifest", ".jsonl")
    damaged = next(file for file in conflicts if file.name.startswith("0" * 20))
    match harm:
        case "missing":
            damaged.unlink()
        case "cut":
            damaged.write_bytes(damaged.read_bytes()[:-1])
        case "changed":
            damaged.write_bytes(damaged.read_bytes().replace(b'"index":1', b'"index":2', 1))
        case "renamed":
            damaged.rename(damaged.with_name("0" * 20 + "-1-x.jsonl"))
    error = await refusal(second)
    assert error.reason == "OBJECT_DAMAGED"
    await nothing_was_restored(second)


async def nothing_was_restored(one: Station) -> None:
    assert await one.mesh.catalog_rows("SELECT path FROM archive.objects") == []
    ends = await one.mesh.log.ends(("restored",))
    assert sum(span.next for span in ends.values()) == 0
