"""Known sites: followed from the Log, without the catalog's tables, whatever the topic holds besides."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from alert_svc import known_sites
from alert_svc.known_sites import PATIENCE_S, KnownSites
from mesh.adapters.directory import DirectoryObjects
from mesh.clock import ManualClock, SystemClock
from mesh.codec.catalog import write_catalog
from mesh.codec.log_records import ContextChange, ContextKind, write_context
from mesh.context import Context, publish
from mesh.errors import Fault
from mesh.ports import Record
from mesh.stages import Progress
from tests.alert.rule_serving import CHANGES, RuleServing, a_rule, rule_serving
from tests.conftest import FreshDatabase
from tests.query.deployment import running, until
from water.sites import Site


@pytest.fixture
async def served(fresh_database: FreshDatabase, objects: DirectoryObjects) -> AsyncIterator[RuleServing]:
    async with rule_serving(fresh_database, objects) as serving:
        yield serving


def followed(served: RuleServing) -> KnownSites:
    return KnownSites(served.log, served.objects, Progress("sites"), SystemClock())


async def add(served: RuleServing, version: int, *site_ids: str) -> None:
    """A catalog of these sites in the Log."""
    content = write_catalog([Site(site_id) for site_id in site_ids], [])
    await publish(Context(ContextKind.CATALOG, version, content), served.log, served.objects)


async def append(served: RuleServing, value: bytes) -> None:
    await (await served.log.append(CHANGES, Record(value)))


async def test_no_site_is_asked_for_and_none_is_waited_for(served: RuleServing) -> None:
    known = KnownSites(served.log, served.objects, Progress("sites"), ManualClock(0))
    assert await known.unknown([]) == []


async def test_a_site_that_was_created_a_moment_ago_is_accepted(served: RuleServing) -> None:
    await served.catalog_publisher.publish_pending()
    await served.sites.create(Site("new", region="north", source_type=1), "")
    setting = asyncio.create_task(served.set(a_rule(site_ids=["new"])))
    await until(lambda: asyncio.sleep(0, served.known._looks > 1))
    await served.catalog_publisher.publish_pending()
    assert list((await setting).site_ids) == ["new"]


async def test_an_unknown_site_is_told_after_three_seconds_of_the_clock(served: RuleServing) -> None:
    clock = ManualClock(0)
    known = KnownSites(served.log, served.objects, Progress("sites"), clock)
    asking = asyncio.create_task(known.unknown(["b", "a"]))
    while not asking.done():
        await until(lambda: asyncio.sleep(0, asking.done() or clock.sleeping > 0))
        if not asking.done():
            clock.advance(0.1)
    assert await asking == ["a", "b"]
    assert PATIENCE_S <= clock.now_us() / 1e6 <= PATIENCE_S + 0.2


async def test_the_worker_follows_changes_and_the_newest_version_counts(served: RuleServing) -> None:
    clock, progress = ManualClock(0), Progress("sites")
    known = KnownSites(served.log, served.objects, progress, clock)
    async with running(known.run):
        await add(served, 2, "a", "b")
        await add(served, 1, "z")
        await until(lambda: asyncio.sleep(0, clock.sleeping > 0))
        clock.advance(1)
        await until(lambda: asyncio.sleep(0, progress.next_offset.get(CHANGES, 0) == 2))
    assert await known.unknown(["a", "b"]) == []
    assert progress.handled_count == 2


async def test_a_new_process_finds_the_newest_catalog_behind_any_number_of_other_records(
    served: RuleServing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_sites, "BLOCK", 4)
    await add(served, 1, "old")
    await add(served, 2, "old", "new")
    for number in range(11):
        await append(served, write_context(ContextChange(ContextKind.RULES, number, "rules/gone", "")))
    await append(served, b"\xff not a record")
    assert await followed(served).unknown(["old", "new"]) == []


async def test_many_who_ask_at_once_read_the_topic_a_few_times(served: RuleServing) -> None:
    await add(served, 1, "a")
    known = followed(served)
    assert await asyncio.gather(*(known.unknown(["a"]) for _ in range(50))) == [[]] * 50
    assert known._looks <= 2


async def test_a_catalog_object_that_is_missing_or_changed_is_our_fault_and_says_so(served: RuleServing) -> None:
    change = ContextChange(ContextKind.CATALOG, 5, "contexts/x/catalog/5", hashlib.sha256(b"right").hexdigest())
    await append(served, write_context(change))
    known = followed(served)
    with pytest.raises(Fault, match="put it back"):
        await known.unknown(["a"])
    await served.objects.put(change.object_path, b"wrong")
    with pytest.raises(Fault, match="checksum"):
        await known.unknown(["a"])
