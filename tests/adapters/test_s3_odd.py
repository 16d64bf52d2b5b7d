"""Buckets that cannot be used are refused when they are opened, and odd answers of a look-alike are never taken for content."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from mesh.adapters.s3 import S3Settings
from mesh.errors import FailedPrecondition, SetupError, Unavailable, Unsupported
from tests.adapters.odd_s3 import OddS3, odd_s3
from tests.contract.s3_engine import s3_objects


@pytest.fixture
def odd() -> Iterator[OddS3]:
    """A look-alike."""
    with odd_s3() as one:
        yield one


def settings_of(odd: OddS3) -> S3Settings:
    return S3Settings(odd.endpoint, "odd", "us-east-1", "key", "wqsecretwq", "when_required")


async def refusal(settings: S3Settings) -> str:
    """Why it is refused when it is opened."""
    with pytest.raises(SetupError) as error:
        async with s3_objects(settings):
            raise AssertionError
    assert settings.secret_key not in error.value.message
    return error.value.message


async def test_a_usual_look_alike_serves(odd: OddS3) -> None:
    async with s3_objects(settings_of(odd)) as objects:
        assert odd.content == {}, "the objects of the trial are gone"
        assert await objects.put("a", b"1") is True
        assert await objects.put("a", b"1") is False
        assert await objects.get("a") == b"1"


@pytest.mark.parametrize(("how", "call"), [("put", "PutObject"), ("parts", "CompleteMultipartUpload")])
async def test_a_look_alike_that_puts_over_what_is_there_is_refused(odd: OddS3, how: str, call: str) -> None:
    odd.ignores.add(how)
    assert f"{call} does not heed If-None-Match" in await refusal(settings_of(odd))
    assert (odd.content, odd.parts) == ({}, {})


async def test_a_look_alike_without_conditional_puts_is_refused(odd: OddS3) -> None:
    odd.refusals["PUT"] = 501, "NotImplemented"
    message = await refusal(replace(settings_of(odd), checksums="when_supported"))
    assert "If-None-Match is refused (501 NotImplemented)" in message
    assert 's3_checksums = "when_required"' in message


async def test_missing_rights_are_listed_together(odd: OddS3) -> None:
    odd.refusals |= {"DELETE": (403, "AccessDenied"), "POST": (403, "AccessDenied")}
    message = await refusal(settings_of(odd))
    assert "s3:DeleteObject is refused (403 AccessDenied): give the key this right" in message
    assert "s3:PutObject in parts is refused" in message


async def test_rights_that_are_taken_away_later_are_said_clearly(odd: OddS3) -> None:
    async with s3_objects(settings_of(odd)) as objects:
        odd.refusals["PUT"] = 403, "AccessDenied"
        with pytest.raises(Unavailable, match="does not allow it: it answered 403 AccessDenied when putting 'a'") as error:
            await objects.put("a", b"1")
        assert error.value.reason == "OBJECTS_REFUSED"


async def test_another_kind_of_server_is_not_taken_for_s3(odd: OddS3) -> None:
    odd.refusals["GET"] = 404, "NotFound"
    assert "there is no bucket 'odd'" in await refusal(settings_of(odd))
    odd.refusals.clear()
    odd.page = b"It works!"
    with pytest.raises(Unavailable, match="cannot serve"):
        async with s3_objects(settings_of(odd)):
            raise AssertionError


async def test_an_answer_that_is_garbage_is_unavailable(odd: OddS3) -> None:
    async with s3_objects(settings_of(odd)) as objects:
        odd.page = b"It works!"
        with pytest.raises(Unavailable, match="listing"):
            await anext(aiter(objects.list("")))


async def test_a_listing_out_of_order_is_refused(odd: OddS3) -> None:
    async with s3_objects(settings_of(odd)) as objects:
        keys = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in ("b", "a"))
        odd.page = f"<ListBucketResult>{keys}</ListBucketResult>".encode()
        with pytest.raises(Unsupported, match="'a' behind 'b'"):
            [path async for path in objects.list("")]


async def test_who_is_told_to_slow_down_tries_again_and_then_says_so(odd: OddS3) -> None:
    async with s3_objects(settings_of(odd)) as objects:
        odd.slow_downs = 1
        assert await objects.put("a", b"1") is True
        odd.slow_downs = 2
        with pytest.raises(Unavailable, match="503 SlowDown"):
            await objects.put("b", b"1")
        assert await objects.put("b", b"1") is True


async def test_a_full_engine_is_said_so(odd: OddS3) -> None:
    async with s3_objects(settings_of(odd)) as objects:
        odd.refusals["PUT"] = 507, "InsufficientStorage"
        with pytest.raises(Unavailable, match="is full") as error:
            await objects.put("a", b"1")
        assert error.value.reason == "DISK_FULL"


async def test_content_that_ends_too_early_is_read_once_more_and_never_taken(odd: OddS3) -> None:
    async with s3_objects(settings_of(odd)) as objects:
        await objects.put("a", b"content")
        odd.cuts = 1
        assert await objects.get("a") == b"content"
        odd.cuts = 2
        with pytest.raises(Unavailable, match="getting 'a'"):
            await objects.get("a")


async def test_content_that_changed_on_the_way_is_read_once_more_and_that_changed_where_it_lies_is_damaged(odd: OddS3) -> None:
    async with s3_objects(settings_of(odd)) as objects:
        await objects.put("a", b"content")
        odd.damages = 1
        assert await objects.get("a") == b"content"
        odd.damages = 2
        with pytest.raises(FailedPrecondition, match=r"'a' .* is damaged") as error:
            await objects.get("a")
        assert error.value.reason == "OBJECT_DAMAGED"


async def test_a_missing_bucket_is_named_with_the_mend(s3_server: S3Settings) -> None:
    settings = replace(s3_server, bucket="test-that-nobody-made")
    message = await refusal(settings)
    assert f"there is no bucket {settings.bucket!r}" in message
    assert f"s3 mb s3://{settings.bucket}" in message


@pytest.mark.parametrize("wrong", [{"access_key": "nobody"}, {"secret_key": "wqsecretwq-not"}])
async def test_wrong_credentials_are_refused(s3_settings: S3Settings, wrong: dict[str, str]) -> None:
    assert "check s3_access_key, s3_secret_key and s3_region" in await refusal(replace(s3_settings, **wrong))


async def test_settings_that_cannot_work_are_listed_together() -> None:
    message = await refusal(S3Settings("ftp://x", "B", "", "", "wqsecretwq", "always", "../up"))
    for name in ("s3_endpoint", "s3_bucket", "s3_region", "access_key", "s3_checksums", "../up"):
        assert name in message
    message = await refusal(S3Settings("http://me:wqsecretwq@host", "bucket", "r", "k", "wqsecretwq"))
    assert "has a user name or a password" in message
