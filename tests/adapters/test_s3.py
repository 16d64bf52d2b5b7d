"""Objects in a bucket, beyond the port: what else is in it, and a network that breaks between us and the engine."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mesh.adapters import s3_client as s3_client_module
from mesh.adapters.s3 import S3Settings
from mesh.errors import InvalidArgument, NotFound, ObjectConflict, Unavailable
from mesh.ports import Objects
from tests.contract.s3_engine import s3_client, s3_objects
from tests.proxy import BreakableProxy

MIB = 2**20


@pytest.fixture
def bucket(s3_settings: S3Settings) -> S3Settings:
    """Settings of a new bucket."""
    return s3_settings


@asynccontextmanager
async def behind(settings: S3Settings) -> AsyncIterator[tuple[BreakableProxy, Objects]]:
    """The adapter on that bucket, and the proxy between them."""
    async with (
        BreakableProxy(urlsplit(settings.endpoint).port or 80) as proxy,
        s3_objects(replace(settings, endpoint=f"http://{proxy.target}")) as objects,
    ):
        yield proxy, objects


async def listed(objects: Objects) -> list[str]:
    return [path async for path in objects.list("")]


async def test_deployments_with_their_own_prefix_share_a_bucket(bucket: S3Settings) -> None:
    async with s3_objects(replace(bucket, prefix="one")) as one, s3_objects(replace(bucket, prefix="two/of/them/")) as two:
        await one.put("a/b", b"1")
        await two.put("a/b", b"2")
        assert (await one.get("a/b"), await two.get("a/b")) == (b"1", b"2")
        assert (await listed(one), await listed(two)) == (["a/b"], ["a/b"])
        await one.delete("a/b")
        assert (await listed(one), await listed(two)) == ([], ["a/b"])
        with pytest.raises(InvalidArgument, match="with its prefix"):
            await two.put("a/" * 510 + "abc", b"")


async def test_names_that_no_path_can_have_are_passed_over(bucket: S3Settings) -> None:
    async with s3_objects(bucket) as objects:
        await objects.put("a/b", b"")
        with s3_client(bucket) as client:
            for key in ("a/~tmp", "a b", "folder/", "zä"):
                client.put_object(Bucket=bucket.bucket, Key=key, Body=b"")
        assert await listed(objects) == ["a/b"]


async def test_what_another_client_has_put_is_compared_by_its_content(bucket: S3Settings) -> None:
    async with s3_objects(bucket) as objects:
        with s3_client(bucket) as client:
            client.put_object(Bucket=bucket.bucket, Key="a/b", Body=b"one")
        assert await objects.get("a/b") == b"one"
        assert await objects.put("a/b", b"one") is False
        with pytest.raises(ObjectConflict):
            await objects.put("a/b", b"two")


async def test_a_stock_client_sees_the_content_and_its_checksum(bucket: S3Settings) -> None:
    async with s3_objects(bucket) as objects:
        await objects.put("a/b.parquet", b"one")
        await objects.put("large", bytes(17 * MIB))
        with s3_client(bucket) as client:
            head = client.head_object(Bucket=bucket.bucket, Key="a/b.parquet", ChecksumMode="ENABLED")
            assert head["ChecksumSHA256"] == "dpLDrTVAu4A8Ags67mbNiIcSMjTqDG5xQ8Ct1z/0Me0="
            assert client.head_object(Bucket=bucket.bucket, Key="large")["ContentLength"] == 17 * MIB


async def test_content_that_lost_in_parts_leaves_no_part_behind(bucket: S3Settings) -> None:
    async with s3_objects(bucket) as objects:
        await objects.put("large", bytes(17 * MIB))
        with pytest.raises(ObjectConflict):
            await objects.put("large", b"1" * 17 * MIB)
        with s3_client(bucket) as client:
            assert client.list_multipart_uploads(Bucket=bucket.bucket).get("Uploads", []) == []


@pytest.mark.parametrize("size", [3 * MIB, 33 * MIB])
async def test_a_put_whose_connection_is_cut_midway_is_whole_or_not_there(bucket: S3Settings, size: int) -> None:
    content = os.urandom(size)
    async with behind(bucket) as (proxy, objects):
        for part in (0.05, 0.4, 0.95):
            path = f"cut/{part}"
            proxy.cut_after(int(size * part))
            try:
                await objects.put(path, content)
            except Unavailable:
                assert path not in await listed(objects)
                await objects.put(path, content)
            assert await objects.get(path) == content
    with s3_client(bucket) as client:
        assert client.list_multipart_uploads(Bucket=bucket.bucket).get("Uploads", []) == []


async def test_a_get_whose_connection_is_cut_midway_is_whole_all_the_same(bucket: S3Settings) -> None:
    content = os.urandom(8 * MIB)
    async with behind(bucket) as (proxy, objects):
        await objects.put("a", content)
        proxy.delay(0.005)
        before = proxy.forwarded_bytes
        getting = asyncio.create_task(objects.get("a"))
        while proxy.forwarded_bytes == before:  # noqa: ASYNC110 - until the question has gone through
            await asyncio.sleep(0.01)
        proxy.cut()
        assert await getting == content


async def test_an_engine_that_is_away_is_unavailable_and_is_used_again_when_it_is_back(bucket: S3Settings) -> None:
    async with behind(bucket) as (proxy, objects):
        await objects.put("a", b"1")
        proxy.refuse()
        proxy.cut()
        calls = (objects.put("b", b""), objects.get("a"), objects.delete("a"), listed(objects))
        for found in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(found, Unavailable), found
            assert (found.reason, bucket.bucket in found.message) == ("OBJECTS_AWAY", True)
        proxy.refuse(False)
        assert await objects.get("a") == b"1"
        assert await listed(objects) == ["a"]


async def test_an_engine_that_says_nothing_is_unavailable_in_time(bucket: S3Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client_module, "READ_TIMEOUT_S", 0.3)
    async with behind(bucket) as (proxy, objects):
        proxy.pause()
        with pytest.raises(Unavailable, match="ReadTimeout"):
            await asyncio.wait_for(objects.get("a"), 10)
        proxy.resume()
        with pytest.raises(NotFound):
            await objects.get("a")


async def test_a_bucket_that_is_gone_is_said_so(bucket: S3Settings) -> None:
    async with s3_objects(bucket) as objects:
        with s3_client(bucket) as client:
            client.delete_bucket(Bucket=bucket.bucket)
            for call in (objects.put("b", b""), objects.get("a"), listed(objects)):
                with pytest.raises(Unavailable, match="is gone"):
                    await call
            client.create_bucket(Bucket=bucket.bucket)


async def test_nobody_there_is_unavailable_when_it_is_opened() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        settings = S3Settings(f"http://127.0.0.1:{nobody.getsockname()[1]}", "bucket", "us-east-1", "key", "secret")
        with pytest.raises(Unavailable, match="is away"):
            async with s3_objects(settings):
                raise AssertionError


async def test_the_key_is_never_told(bucket: S3Settings, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    assert bucket.secret_key not in repr(bucket)
    with caplog.at_level(logging.DEBUG):
        async with s3_objects(bucket) as objects:
            await objects.put("a", b"1")
    assert caplog.records
    assert bucket.secret_key not in caplog.text
