"""What a fault run needs of a running mesh, whatever it is made of: where to send and ask, what to break, what to read back."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import psutil

from mesh.ports import Exchange, Log
from tests.proxy import BreakableProxy


class Deployment(Protocol):
    """Started once, then faults happen to it one after the other. Names: `programs` are processes of ours, `engines` what they
    stand on, `links` the connections that lead through a proxy, `disks` the small ones that can be filled."""

    @property
    def name(self) -> str: ...

    @property
    def programs(self) -> Sequence[str]: ...

    @property
    def engines(self) -> Sequence[str]: ...

    @property
    def links(self) -> Mapping[str, Sequence[BreakableProxy]]: ...

    @property
    def disks(self) -> Mapping[str, Path]: ...

    @property
    def ingest(self) -> Sequence[str]:
        """gRPC addresses for gateways; each leads to another process of the same service."""

    @property
    def query(self) -> Sequence[str]:
        """gRPC addresses of Query, Catalog and Ledger."""

    @property
    def alert(self) -> Sequence[str]:
        """gRPC addresses of Alert and Rule."""

    @property
    def catalog_dsn(self) -> str:
        """libpq words of the catalog database, not through any proxy."""

    @property
    def shard_dsns(self) -> Mapping[int, str]:
        """The same of every shard."""

    def kill(self, name: str) -> None:
        """kill -9 of a program or an engine, with all its children."""

    def pause(self, name: str) -> None:
        """SIGSTOP of the same."""

    def resume(self, name: str) -> None:
        """SIGCONT."""

    async def start_again(self, name: str) -> None:
        """After a kill, as a supervisor does; returns when it is there, for a program when it serves."""

    async def restart(self, name: str) -> None:
        """In order: asked to stop, waited for, started again."""

    def processes(self) -> Mapping[str, psutil.Process]:
        """The programs that run now."""

    def output(self) -> str:
        """What the programs have said so far."""

    def objects(self, prefix: str) -> AsyncIterator[bytes]:
        """Contents of the archive's objects whose paths begin so, not through any proxy."""

    def log(self) -> AbstractAsyncContextManager[Log]:
        """The Log, not through any proxy."""

    def exchange(self) -> AbstractAsyncContextManager[Exchange]:
        """The Exchange, not through any proxy."""

    def versions(self) -> Mapping[str, str]:
        """Of everything that it is made of."""
