"""How engines are started, all at once, and waited for until they serve."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import SetupError
from wq.engines import processes as running
from wq.engines.engine import Engine, NotAnswering, last_lines
from wq.engines.ports import holder, is_free
from wq.engines.processes import Process
from wq.engines.state import FILE, State, write_state

START_S = 90.0
_LOOK_S = 0.1
_WRITING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Started:
    """What became of one engine at a start. `was_up`: it ran already and was let be."""

    name: str
    address: str
    version: str
    seconds: float
    was_up: bool


Tell = Callable[[Started], None]


def start_all(folder: Path, state: State, engines: list[Engine], tell: Tell) -> None:
    """All at once: brokers wait for each other. Raises SetupError that lists what could not be started, when the others are."""
    problems = []
    with ThreadPoolExecutor(max(1, len(engines)), "engines") as threads:
        asked = {threads.submit(_start_one, folder, state, engine): engine.name for engine in engines}
        for done in as_completed(asked):
            try:
                tell(done.result())
            except SetupError as error:
                problems.append(error.message.replace("--data", "--dir"))  # as that option is called here
            except OSError as error:
                problems.append(f"{asked[done]} cannot start: {error}")
    if problems:
        raise SetupError("\n".join(dict.fromkeys(problems)))


def _start_one(folder: Path, state: State, engine: Engine) -> Started:
    began = time.monotonic()
    found = state.processes.get(engine.name, [])
    was_up = bool(found) and all(map(running.is_alive, found))
    if was_up:
        running.resume(found)
    else:
        running.kill(found)  # half an engine is none
        _ports_must_be_free(folder, engine)
        found = engine.launch()
        with _WRITING:  # at once, so that it is known as ours whatever becomes of us
            state.processes[engine.name] = found
            write_state(folder, state)
    version = _wait_until_it_answers(engine, found)
    engine.furnish()
    return Started(engine.name, engine.address, version, time.monotonic() - began, was_up)


def _ports_must_be_free(folder: Path, engine: Engine) -> None:
    for name, port in engine.ports.items():
        if not is_free(port):
            raise SetupError(
                f"{engine.name} cannot start: port {port} is held by {holder(port)}; end that, or write a free number for"
                f" {name!r} among the ports in {folder / FILE}"
            )


def _wait_until_it_answers(engine: Engine, started: Iterable[Process]) -> str:
    deadline = time.monotonic() + START_S
    while True:
        try:
            return engine.probe()
        except NotAnswering as error:
            dead = not all(map(running.is_alive, started))
            if dead or time.monotonic() > deadline:
                what = "has ended" if dead else f"does not answer within {START_S:.0f} s ({error})"
                said = "".join(f"\n  {line}" for line in last_lines(engine.log))
                raise SetupError(f"{engine.name} {what}; the end of its log, {engine.log}:{said}") from None
        time.sleep(_LOOK_S)
