"""What one accepted record becomes: the fold over one partition of one lane, contexts included."""

import asyncio
import hashlib
from dataclasses import replace

import numpy as np

from ingest_svc.checkpoint import Checkpoint
from mesh.codec.catalog_context import read_described
from mesh.codec.log_records import Accepted, ContextChange, ContextKind, Screened, read_accepted
from mesh.codec.rules_context import read_rules_context
from mesh.codec.stamp import read_stamp
from mesh.codec.tasks import Task
from mesh.errors import Fault, InvalidArgument, NotFound
from mesh.ports import Objects, Stored
from water.condition import Condition
from water.described import Described
from water.readings import empty
from water.rulebook import Rulebook
from water.rules import Rule
from water.screen import Settings, screen
from water.state import State

THREAD_FROM_READINGS = 2_000  # about 1 ms of numpy: more of it at once would make the event loop stand still
_NOTHING = Accepted("", 0, "", 0, empty().with_flags(np.empty(0, np.uint64)))


class Lane:
    """Begins where the checkpoint ends; await `open` first. After an exception its state is unknown: make a new one.

    `historical`: the lane is backfill, so its conditions wake nobody.
    """

    def __init__(self, checkpoint: Checkpoint, objects: Objects, historical: bool = False) -> None:
        self._state = checkpoint.state
        self._contexts = {change.kind: change for change in checkpoint.contexts}
        self._objects = objects
        self._historical = historical
        self._rules: tuple[Rule, ...] = ()
        self._described = Described()
        self._settings = Settings()
        self.offset = checkpoint.offset
        """The last offset that was folded; -1: none."""

    async def open(self) -> None:
        """Fetches the contexts in force. Raises Unavailable, and Fault where an object is missing or not what it was."""
        for change in self._contexts.values():
            await self._use(change)

    async def fold(self, stored: Stored) -> tuple[Screened, str]:
        """What the record after the last one becomes; it is empty for a context, and for a record that cannot be read, which
        changes nothing: then the text says why. Raises as `open` does."""
        accepted, problem = _NOTHING, ""
        conditions: tuple[Condition, ...] = ()
        try:
            content = _read(stored)
        except (InvalidArgument, ValueError) as error:
            problem = str(error) or type(error).__name__
        else:
            if isinstance(content, Accepted):
                accepted, conditions = await self._screen(content)
            else:
                await self._change(content)
        screened = Screened(
            accepted.gateway_id,
            accepted.sequence,
            accepted.region,
            accepted.received_at_us,
            accepted.readings,
            source_offset=stored.offset,
            previous_source_offset=self.offset,
            context_version=tuple(self._version(kind) for kind in ContextKind),
            conditions=tuple(self._task(condition, accepted) for condition in conditions),
        )
        self.offset = stored.offset
        return screened, problem

    def checkpoint(self) -> Checkpoint:
        """What a new Lane needs to go on from here, as a copy. Nothing may be folded until it returns."""
        return Checkpoint(
            self.offset, State.of(self._state.columns()), tuple(self._contexts[kind] for kind in sorted(self._contexts))
        )

    async def _screen(self, accepted: Accepted) -> tuple[Accepted, tuple[Condition, ...]]:
        readings = accepted.readings
        arguments = self._state, readings, self._settings, accepted.region
        if len(readings) < THREAD_FROM_READINGS:
            screening = screen(*arguments)
        else:
            screening = await asyncio.to_thread(screen, *arguments)
        return replace(accepted, readings=readings.with_flags(screening.flags)), screening.conditions

    def _task(self, condition: Condition, accepted: Accepted) -> Task:
        return Task(condition, accepted.gateway_id, accepted.region, accepted.received_at_us, self._historical)

    async def _change(self, change: ContextChange) -> None:
        if change.version > self._version(change.kind):
            await self._use(change)
            self._contexts[change.kind] = change

    async def _use(self, change: ContextChange) -> None:
        """Every kind must be there and be what it was when it was published, also those that no test needs yet."""
        where = f"{ContextKind(change.kind).name} context version {change.version}, object {change.object_path}"
        try:
            content = await self._objects.get(change.object_path)
        except NotFound as error:
            raise Fault(f"{where}: it is missing, so nothing can be screened from here on; put it back") from error
        if hashlib.sha256(content).hexdigest() != change.sha256:
            raise Fault(f"{where}: its content does not match the checksum {change.sha256}; put the right one back")
        try:
            if change.kind == ContextKind.RULES:
                self._rules = await asyncio.to_thread(read_rules_context, content)
            if change.kind == ContextKind.CATALOG:
                self._described = await asyncio.to_thread(read_described, content)
            rulebook = await asyncio.to_thread(Rulebook, self._rules, self._described)
        except (InvalidArgument, ValueError) as error:
            raise Fault(f"{where}: {error}") from error
        self._settings = Settings(rulebook=rulebook)

    def _version(self, kind: int) -> int:
        return self._contexts[kind].version if kind in self._contexts else 0


def _read(stored: Stored) -> Accepted | ContextChange:
    """Raises InvalidArgument or ValueError for a record that cannot be screened."""
    read_stamp(stored.record.headers)
    content = read_accepted(stored.record.value)
    if isinstance(content, ContextChange) and content.kind not in list(ContextKind):
        raise ValueError(f"a context of unknown kind {content.kind}: update this program")
    return content
