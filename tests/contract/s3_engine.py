"""Buckets for tests: the adapter on one, and a stock client to look behind it."""

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from mesh.adapters.s3 import S3Settings, open_s3_objects
from mesh.adapters.s3_client import make_client
from mesh.ports import Objects

THREADS = 4


@contextmanager
def s3_client(settings: S3Settings) -> Iterator[Any]:
    """As any other user of the bucket has one."""
    client = make_client(settings)
    try:
        yield client
    finally:
        client.close()


@asynccontextmanager
async def s3_objects(settings: S3Settings) -> AsyncIterator[Objects]:
    """The adapter on that bucket."""
    with ThreadPoolExecutor(THREADS, "s3") as threads:
        async with open_s3_objects(settings, threads) as objects:
            yield objects
