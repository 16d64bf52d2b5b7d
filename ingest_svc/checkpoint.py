"""Checkpoints of screening: the state of one partition and lane as of one offset, as immutable objects, the newest two kept.

They only save work: whoever has none, or none that can be read, folds the log from its start to the very same state.
"""

import asyncio
import hashlib
import io
import json
from dataclasses import asdict, dataclass

import numpy as np
import structlog

from mesh.codec.log_records import ContextChange
from mesh.errors import NotFound, ObjectConflict
from mesh.ports import Objects, Partition
from water.state import SCHEMA, State

KEPT = 2
_DIGEST_BYTES = 32
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """What screening knew when it had folded everything up to `offset` (-1: nothing), and the contexts that were in force."""

    offset: int
    state: State
    contexts: tuple[ContextChange, ...] = ()


class Checkpoints:
    """The checkpoints of one log's partitions."""

    def __init__(self, objects: Objects, log_id: str) -> None:
        self._objects = objects
        self._root = f"checkpoints/screen/{log_id}"

    async def newest(self, partition: Partition) -> Checkpoint:
        """The newest that can be read; without one, the state before any reading. Raises Unavailable when Objects is away."""
        paths = await self._paths(partition)
        for path in reversed(paths):
            try:
                content = await self._objects.get(path)
                return await asyncio.to_thread(read_checkpoint, content)
            except NotFound:
                continue
            except (ValueError, KeyError) as error:
                _log.warning("checkpoint not usable, taking an older one", path=path, problem=str(error))
        return Checkpoint(-1, State())

    async def keep(self, partition: Partition, checkpoint: Checkpoint) -> bool:
        """Durable on return, and all but the newest two are gone. False: another one stands in its place (written by another
        version of this program, or damaged), and stays. The state must not change meanwhile. Raises Unavailable."""
        path = f"{self._folder(partition)}{checkpoint.offset:020d}"
        content = await asyncio.to_thread(write_checkpoint, checkpoint)
        try:
            await self._objects.put(path, content)
        except ObjectConflict:
            _log.warning("another checkpoint stands here, left as it is", path=path)
            return False
        for older in [found for found in await self._paths(partition) if found <= path][:-KEPT]:
            await self._objects.delete(older)
        return True

    async def _paths(self, partition: Partition) -> list[str]:
        return [path async for path in self._objects.list(self._folder(partition))]

    def _folder(self, partition: Partition) -> str:
        return f"{self._root}/{partition.topic}/{partition.number}/"


def write_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Equal checkpoints give equal bytes."""
    contexts = json.dumps([asdict(change) for change in checkpoint.contexts], sort_keys=True)
    file = io.BytesIO()
    np.savez(
        file,
        allow_pickle=False,
        schema=np.int64(SCHEMA),
        offset=np.int64(checkpoint.offset),
        contexts=np.frombuffer(contexts.encode(), np.uint8),
        **checkpoint.state.columns(),
    )
    content = file.getvalue()
    return hashlib.sha256(content).digest() + content


def read_checkpoint(content: bytes) -> Checkpoint:
    """The inverse. Raises ValueError or KeyError for damaged bytes, and for a state of another schema."""
    if hashlib.sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
        raise ValueError("its content does not match its checksum")
    with np.load(io.BytesIO(content[_DIGEST_BYTES:]), allow_pickle=False) as columns:
        if int(columns["schema"]) != SCHEMA:
            raise ValueError(f"its schema is {int(columns['schema'])}, this program's is {SCHEMA}")
        contexts = json.loads(columns["contexts"].tobytes())
        return Checkpoint(int(columns["offset"]), State.of(columns), tuple(ContextChange(**change) for change in contexts))
