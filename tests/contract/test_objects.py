"""What every Objects promises: immutable content under checked names, listed in order."""

import asyncio
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.errors import InvalidArgument, NotFound, ObjectConflict, TooLarge
from mesh.ports import Objects

_SEGMENTS = st.text("abZ09._-=", min_size=1, max_size=4).filter(lambda segment: segment not in (".", ".."))


async def listed(store: Objects, prefix: str) -> list[str]:
    return [path async for path in store.list(prefix)]


async def test_what_is_put_is_got(store: Objects) -> None:
    content = os.urandom(3 * 2**20)
    assert await store.put("region=R1/2026/a.parquet", content) is True
    assert await store.get("region=R1/2026/a.parquet") == content
    assert await store.put("empty", b"") is True
    assert await store.get("empty") == b""


async def test_the_same_content_again_is_no_conflict_and_other_content_is(store: Objects) -> None:
    assert await store.put("a/b", b"one") is True
    assert await store.put("a/b", b"one") is False
    with pytest.raises(ObjectConflict, match="a/b"):
        await store.put("a/b", b"two")
    assert await store.get("a/b") == b"one"


async def test_content_above_the_limit_of_its_reader_is_refused(store: Objects) -> None:
    await store.put("a/b", b"four")
    assert await store.get("a/b", 4) == b"four"
    with pytest.raises(TooLarge, match="4 bytes, more than the 3"):
        await store.get("a/b", 3)
    with pytest.raises(NotFound):
        await store.get("a/c", 3)


async def test_large_content_is_put_once_too(store: Objects) -> None:
    content = os.urandom(33 * 2**20)
    assert await store.put("large", content) is True
    assert await store.put("large", content) is False
    with pytest.raises(ObjectConflict):
        await store.put("large", content[:-1] + bytes([content[-1] ^ 1]))
    assert await store.get("large") == content
    results = await asyncio.gather(*(store.put("new", bytes([i]) + content[1:]) for i in range(3)), return_exceptions=True)
    assert sorted(map(repr, results)).count("True") == 1
    assert (await store.get("new"))[1:] == content[1:]


async def test_more_than_a_page_is_listed_while_some_of_it_goes(store: Objects) -> None:
    paths = [f"a/{number:04}" for number in range(1_100)]
    for start in range(0, len(paths), 50):
        await asyncio.gather(*(store.put(path, b"") for path in paths[start : start + 50]))
    listed_paths = []
    async for path in store.list("a/"):
        listed_paths.append(path)
        if path == "a/0500":
            await asyncio.gather(*(store.delete(gone) for gone in paths[400:1050]))
    assert listed_paths[:401] == paths[:401]
    assert listed_paths[-50:] == paths[1050:]
    assert listed_paths == sorted(set(listed_paths))


async def test_of_many_who_put_at_once_exactly_one_creates(store: Objects) -> None:
    results = await asyncio.gather(*(store.put("a/b/c", bytes([i % 2])) for i in range(20)), return_exceptions=True)
    assert results.count(True) == 1
    assert results.count(False) == 9
    assert sum(isinstance(result, ObjectConflict) for result in results) == 10


async def test_what_is_not_there_is_not_found(store: Objects) -> None:
    await store.put("a/b", b"")
    for path in ("b", "a", "a/c", "a/b/c", "x/y"):
        with pytest.raises(NotFound, match=path):
            await store.get(path)


async def test_a_deleted_object_is_gone_and_deleting_again_is_no_error(store: Objects) -> None:
    await store.put("a/b", b"one")
    await store.delete("a/b")
    await store.delete("a/b")
    await store.delete("never/was")
    with pytest.raises(NotFound):
        await store.get("a/b")
    assert await listed(store, "") == []
    assert await store.put("a/b", b"two") is True


_BAD = ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a b", "ä", "a\n", "a\0b", "~unfinished/x"]


@pytest.mark.parametrize("path", [*_BAD, "a" * 256, "a/" * 600])
async def test_a_path_outside_the_alphabet_is_refused_everywhere(store: Objects, path: str) -> None:
    for call in (store.put(path, b""), store.get(path), store.delete(path)):
        with pytest.raises(InvalidArgument, match="not allowed"):
            await call


async def test_a_prefix_outside_the_alphabet_is_refused(store: Objects) -> None:
    for prefix in ("/", "../", "a/../", "a//b", "ä", "a/b c"):
        with pytest.raises(InvalidArgument, match="not allowed"):
            await listed(store, prefix)


async def test_paths_are_listed_in_the_order_of_their_bytes(store: Objects) -> None:
    paths = ["a/b/c", "a-b", "a.b/x", "a0", "b", "a/b.c", "a/b-c/d", "Z", "a=1/b", "a_/z"]
    for path in paths:
        await store.put(path, b"")
    assert await listed(store, "") == sorted(paths, key=str.encode)
    assert await listed(store, "a/") == ["a/b-c/d", "a/b.c", "a/b/c"]
    assert await listed(store, "a/b") == ["a/b-c/d", "a/b.c", "a/b/c"]
    assert await listed(store, "a/b/c") == ["a/b/c"]
    assert await listed(store, "a/b/c/") == []
    assert await listed(store, "nothing/here") == []


async def test_an_object_whose_name_begins_the_prefix_is_not_listed(store: Objects) -> None:
    await store.put("0", b"")
    assert await listed(store, "0Z_") == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.sets(st.lists(_SEGMENTS, min_size=1, max_size=3).map("/".join), max_size=12),
    prefix=st.lists(_SEGMENTS, min_size=1, max_size=2).map("/".join),
)
async def test_a_listing_is_the_sorted_paths_that_begin_with_the_prefix(store: Objects, names: set[str], prefix: str) -> None:
    for old in await listed(store, ""):
        await store.delete(old)
    kept = set()
    for name in sorted(names):
        try:
            kept.add(name) if await store.put(name, b"") else None
        except InvalidArgument:
            continue  # a directory cannot have an object and a folder of one name
    for wanted in ("", prefix, prefix + "/", prefix[:1]):
        assert await listed(store, wanted) == sorted(name for name in kept if name.startswith(wanted))
