"""A set of engines in one folder: started, mended, broken on purpose, looked at and ended, from Python or from `wq engines`.

Everything here blocks: from asyncio, call it in a thread. Commands and threads may work on one set at once.
"""

import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import SetupError
from wq.engines import processes as running
from wq.engines.engine import Engine, NotAnswering, last_lines
from wq.engines.members import KINDS, engines_of, kind_of
from wq.engines.processes import Process
from wq.engines.settings_file import write_settings
from wq.engines.starting import Tell, start_all
from wq.engines.state import BROKERS, State, locked, read_state, write_state


@dataclass(frozen=True, slots=True)
class Status:
    """How one engine is. `problem`: why it does not serve, empty when it does; `said`: then the end of its log."""

    name: str
    address: str
    version: str
    pid: int | None
    problem: str
    said: tuple[str, ...] = ()


def start(
    folder: Path,
    brokers: int | None = None,
    shards: int | None = None,
    *,
    databases_per_cluster: int | None = None,
    fsync: bool | None = None,
    only: Collection[str] = KINDS,
    told: Callable[[Collection[str]], None] = lambda names: None,
    tell: Tell = lambda started: None,
) -> "EngineSet":
    """The set in `folder`, made when there is none (of 1 broker and 2 shards, unless given), with every engine of the kinds
    `only` (kafka, rabbitmq, s3, postgres) serving on return; those that serve already are let be. `shards`: PostgreSQL clusters,
    beside the catalog's. `fsync`: False where data may be lost, as in tests. `told` hears the names first, `tell` each as it
    serves. Raises SetupError that says what is wrong, when all that can be started are."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - touches no disk
    if unknown := set(only) - set(KINDS):
        raise ValueError(f"no such engines: {sorted(unknown)}; there are {sorted(KINDS)}")
    with locked(folder):
        state = _fitting(folder, brokers, shards, databases_per_cluster, fsync)
        engines = engines_of(folder, state)
        write_state(folder, state)
        wanted = [engine for name, engine in engines.items() if kind_of(name) in only]
        told([engine.name for engine in wanted])
        start_all(folder, state, wanted, tell)
        write_settings(folder, state, engines)
    return EngineSet(folder)


def stop(folder: Path, tell: Callable[[str], None] = lambda name: None, *, in_order: bool = True) -> list[str]:
    """Nothing that the set in `folder` has started runs on return; the names of those that were ended. Its data stays.
    `in_order`: False kills them all, which is quicker."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100
    if not folder.exists():
        return []
    with locked(folder):
        state = read_state(folder)
        if state is None:
            return []
        engines = engines_of(folder, state)
        ended = [name for name in engines if any(map(running.is_alive, state.processes.get(name, ())))]
        # The databases last: until then whoever still works has where to write to.
        for databases in (False, True):
            names = [name for name in ended if (kind_of(name) == "postgres") == databases]
            with ThreadPoolExecutor(max(1, len(names)), "engines") as threads:
                for name in threads.map(lambda name: _end(engines[name], state, in_order), names):
                    tell(name)
        write_state(folder, state)
        return ended


@contextmanager
def running_engines(folder: Path, brokers: int = 1, shards: int = 2, *, only: Collection[str] = KINDS) -> Iterator["EngineSet"]:
    """A set for a test: without fsync, and killed, however broken, when the block is left."""
    try:
        yield start(folder, brokers, shards, fsync=False, only=only)
    finally:
        stop(folder, in_order=False)


@dataclass(frozen=True, slots=True)
class EngineSet:
    """A set that was made. Names: kafka-1, rabbitmq, s3, postgres-catalog, postgres-shard-0, ..."""

    folder: Path

    @property
    def names(self) -> list[str]:
        """Every engine of the set, started or not."""
        return list(self._engines()[1])

    @property
    def settings_file(self) -> Path:
        """For `wq ... --config`: how everything is reached. Holds passwords."""
        return self.folder / "wq.toml"

    def processes(self, name: str) -> list[Process]:
        """What was started for it and lives: for PostgreSQL the postmaster, for RabbitMQ its server first."""
        state, _ = self._engine(name)
        return [process for process in state.processes.get(name, ()) if running.is_alive(process)]

    def start(self, name: str) -> None:
        """It serves on return, with what it had; one that serves already is let be."""
        self._engine(name)
        with locked(self.folder):
            state, engine = self._engine(name)
            start_all(self.folder, state, [engine], lambda started: None)

    def end(self, name: str) -> None:
        """Ends one in order, as `stop` does all."""
        with locked(self.folder):
            state, engine = self._engine(name)
            _end(engine, state, in_order=True)
            write_state(self.folder, state)

    def kill9(self, name: str) -> None:
        """SIGKILL to all of its processes at once; none lives on return."""
        running.kill(self.processes(name))

    def pause(self, name: str) -> None:
        """SIGSTOP to all of its processes: connections stay open, and nothing answers."""
        running.pause(self.processes(name))

    def resume(self, name: str) -> None:
        """Ends a pause."""
        running.resume(self.processes(name))

    def statuses(self) -> list[Status]:
        """How each is, asked at once; takes a few seconds when one does not answer."""
        state, engines = self._engines()
        with ThreadPoolExecutor(len(engines), "engines") as threads:
            return list(threads.map(lambda engine: _status(engine, state), engines.values()))

    def _engines(self) -> tuple[State, dict[str, Engine]]:
        state = read_state(self.folder)
        if state is None:
            raise SetupError(f"no engines were ever started in {self.folder}: start them with `wq engines up`")
        return state, engines_of(self.folder, state)

    def _engine(self, name: str) -> tuple[State, Engine]:
        state, engines = self._engines()
        if name not in engines:
            raise SetupError(f"there is no engine {name!r} in {self.folder}; there are {', '.join(engines)}")
        return state, engines[name]


def _fitting(folder: Path, brokers: int | None, shards: int | None, per_cluster: int | None, fsync: bool | None) -> State:
    """The state that was kept, grown to what is wanted now. Raises SetupError where it cannot grow so."""
    if brokers is not None and brokers not in BROKERS:
        raise SetupError(f"--brokers {brokers}: give {' or '.join(map(str, BROKERS))}")
    kept = read_state(folder)
    if kept is None:
        state = State(brokers or BROKERS[0], fsync=fsync is not False)
        state.grow(2 if shards is None else shards, per_cluster or 1)
        return state
    had = max((kept.databases.count(cluster) for cluster in range(kept.clusters)), default=1)
    too_small = [
        f"{brokers} brokers are wanted, it was made with {kept.brokers}" if brokers not in (None, kept.brokers) else "",
        f"{shards} shards are wanted, it has {kept.clusters}" if shards is not None and shards < kept.clusters else "",
        f"{per_cluster} databases per cluster are wanted, it has {had}" if per_cluster is not None and per_cluster < had else "",
    ]
    if problems := "; ".join(filter(None, too_small)):
        raise SetupError(f"the engines in {folder} cannot become so: {problems}: leave the options out, or choose another --dir")
    kept.grow(kept.clusters if shards is None else shards, per_cluster or had)
    if fsync is not None:
        kept.fsync = fsync
    return kept


def _end(engine: Engine, state: State, in_order: bool) -> str:
    found = state.processes.get(engine.name, [])
    if in_order and any(map(running.is_alive, found)):
        running.resume(found)
        engine.end(found)
    running.kill(found)
    state.processes.pop(engine.name, None)
    return engine.name


def _status(engine: Engine, state: State) -> Status:
    found = state.processes.get(engine.name, [])
    pid = found[0].pid if found and running.is_alive(found[0]) else None
    version, problem = "", ""
    if not found:
        problem = "not started"
    elif not all(map(running.is_alive, found)):
        problem = "has ended by itself, or was killed"
    elif running.is_paused(found[0]):
        problem = "is paused (SIGSTOP)"
    else:
        try:
            version = engine.probe()
        except NotAnswering as error:
            problem = f"does not answer: {error}"
    said = tuple(last_lines(engine.log)) if problem and found else ()
    return Status(engine.name, engine.address, version, pid, problem, said)
