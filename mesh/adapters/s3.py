"""Objects as a bucket of S3, or of an engine that speaks it; boto3 in the caller's threads."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from mesh.adapters.object_paths import PATH_LIMIT, check_prefix, is_segment, segments_of
from mesh.adapters.s3_client import CALL_S, SLOWEST_BYTES_PER_S, S3Settings, check_settings, make_client, speaking
from mesh.adapters.s3_get import get
from mesh.adapters.s3_probe import probe
from mesh.adapters.s3_put import put
from mesh.errors import InvalidArgument, Unsupported
from mesh.ports import Objects

__all__ = ["S3Settings", "open_s3_objects"]

PAGE = 1000
_T = TypeVar("_T")


@asynccontextmanager
async def open_s3_objects(settings: S3Settings, threads: Executor) -> AsyncIterator[Objects]:
    """The objects of a bucket, tried out: raises SetupError that lists what is wrong with settings, bucket, rights and engine
    (one that overwrites what is there is refused), Unavailable when nobody answers. At most 32 threads."""
    check_settings(settings)
    loop = asyncio.get_running_loop()
    with speaking(settings, "making a client"):
        client = await loop.run_in_executor(threads, make_client, settings)
    try:
        await loop.run_in_executor(threads, probe, client, settings)
        yield S3Objects(client, settings, threads)
    finally:
        await loop.run_in_executor(threads, client.close)


class S3Objects:
    """The port Objects on a bucket. Several processes may share it, and `prefix` keeps several deployments apart.

    Objects are put with If-None-Match, so none is ever replaced, and carry their SHA-256 as metadata, by which they are compared
    and read. A call ends within 60 s and a second for each 64 KiB, with Unavailable when it could not be done by then.
    """

    def __init__(self, client: Any, settings: S3Settings, threads: Executor) -> None:
        self._client = client
        self._settings = settings
        self._threads = threads
        self._prefix = settings.key_prefix

    async def put(self, path: str, content: bytes) -> bool:
        work = partial(put, self._client, self._settings, self._key(path), content)
        return await self._in_thread(work, f"putting {path!r}", len(content))

    async def get(self, path: str, limit: int | None = None) -> bytes:
        work = partial(get, self._client, self._settings, self._key(path), path, limit)
        return await self._in_thread(work, f"getting {path!r}", None)  # it has a deadline of its own, by the object's size

    async def delete(self, path: str) -> None:
        work = partial(self._client.delete_object, Bucket=self._settings.bucket, Key=self._key(path))
        await self._in_thread(work, f"deleting {path!r}")

    async def list(self, prefix: str) -> AsyncIterator[str]:
        """As the port says. A thousand names are in memory at a time. Names that no path can have are passed over."""
        check_prefix(prefix)
        last = ""
        while True:
            page, is_last = await self._in_thread(partial(self._names, prefix, last), f"listing {prefix!r}")
            for key in page:
                if key <= last:
                    message = f"{self._settings.where} lists {key!r} behind {last!r}: only buckets that list by bytes can be used"
                    raise Unsupported(message)
                last = key
                path = key.removeprefix(self._prefix)
                if all(is_segment(segment) for segment in path.split("/")):
                    yield path
            if is_last or not page:
                return

    def _names(self, prefix: str, after: str) -> tuple[Sequence[str], bool]:
        """Keys behind `after`: a page of them, and whether it is the last."""
        asked = {"Bucket": self._settings.bucket, "Prefix": self._prefix + prefix, "MaxKeys": PAGE}
        answer = self._client.list_objects_v2(**asked, **({"StartAfter": after} if after else {}))
        return [str(found["Key"]) for found in answer.get("Contents", [])], not answer.get("IsTruncated", False)

    async def _in_thread(self, work: Callable[[], _T], doing: str, size: int | None = 0) -> _T:
        with speaking(self._settings, doing):
            async with asyncio.timeout(None if size is None else CALL_S + size / SLOWEST_BYTES_PER_S):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _key(self, path: str) -> str:
        segments_of(path)
        if len(key := self._prefix + path) > PATH_LIMIT:
            raise InvalidArgument(
                f"the object path {path[:80]!r} is not allowed: {PATH_LIMIT} characters with its prefix at most"
            )
        return key
