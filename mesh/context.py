"""How does everybody learn of a changed context (rules, catalog, models) at one place in the Log, whatever crashes meanwhile?"""

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from mesh.codec.log_records import ContextChange, ContextKind, write_context
from mesh.errors import NotFound, Unavailable
from mesh.ports import Clock, Log, Objects, Partition, Record
from mesh.stages import Progress
from mesh.topics import ACCEPTED, BACKFILL, CONTEXTS

POLL_S = 1.0
PUBLISH_TIMEOUT_S = 30.0
FIRST_VERSION = 1


@dataclass(frozen=True, slots=True)
class Context:
    """The whole of one version: an encoded RulesContext or CatalogContext."""

    kind: ContextKind
    version: int
    content: bytes


class Owner(Protocol):
    """Who commits the versions of one kind of context, each greater than the last."""

    def unpublished(self) -> AbstractAsyncContextManager[Context | None]:
        """The newest version, unless it is published or somebody else is about to publish: then None. Nobody else gets one
        until the block is left. Leaving it without an exception MUST mark the version published, durably."""


class Publisher:
    """Publishes the newest version of one context within seconds of its commit; versions in between may be skipped. After a
    crash a version may be published again: readers ignore what is not greater than what they have."""

    def __init__(self, owner: Owner, log: Log, objects: Objects, progress: Progress, clock: Clock) -> None:
        self._owner = owner
        self._log = log
        self._objects = objects
        self._progress = progress
        self._clock = clock

    async def run(self) -> None:
        """Looks once a second, until cancelled. Safe to cancel at any moment."""
        while True:
            await self.publish_pending()
            await self._clock.sleep(POLL_S)

    async def publish_pending(self) -> int | None:
        """Publishes the newest version if it is not published; durable on return. The version, or None: nothing to do."""
        async with self._owner.unpublished() as context:
            if context is not None:
                await publish(context, self._log, self._objects)
                self._progress.handled_count += 1
        self._progress.problem = ""
        return context.version if context else None


async def publish(context: Context, log: Log, objects: Objects) -> None:
    """Puts the immutable object, then appends the change to `contexts` and to every partition of both lanes. Durable on
    return; safe to repeat. Raises Unavailable after 30 s."""
    digest = hashlib.sha256(context.content).hexdigest()
    path = f"{_folder(context.kind, log.log_id)}/{context.version:012d}-{digest[:16]}"
    record = Record(write_context(ContextChange(context.kind, context.version, path, digest)))
    lanes = [Partition(topic, number) for topic in (ACCEPTED, BACKFILL) for number in range(log.partition_count)]
    try:
        async with asyncio.timeout(PUBLISH_TIMEOUT_S):
            await objects.put(path, context.content)
            await asyncio.gather(*[await log.append(partition, record) for partition in (Partition(CONTEXTS, 0), *lanes)])
    except TimeoutError as error:
        message = f"version {context.version} of {context.kind.name} was not published within {PUBLISH_TIMEOUT_S:g} s"
        raise Unavailable(message, reason="CONTEXT_NOT_PUBLISHED") from error


async def ensure_first_contexts(contents: Mapping[ContextKind, bytes], log: Log, objects: Objects) -> None:
    """Publishes version 1 of each kind, once per log: an object beside it says that it was done. For kinds that have no owner
    yet; call it before anything is accepted. Safe to repeat and to run from several processes."""
    for kind, content in contents.items():
        mark = f"{_folder(kind, log.log_id)}/first"
        try:
            await objects.get(mark)
        except NotFound:
            await publish(Context(kind, FIRST_VERSION, content), log, objects)
            await objects.put(mark, b"published")


def _folder(kind: ContextKind, log_id: str) -> str:
    """The log's identity keeps deployments that share a store apart."""
    return f"contexts/{log_id}/{kind.name.lower()}"
