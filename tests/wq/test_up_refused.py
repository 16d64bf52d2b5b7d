"""What `wq up` cannot start on: each time one line that says what is wrong and what to do, and exit code 1."""

import asyncio
import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import pytest_asyncio

from tests.engines import reachable_folder
from tests.flows.process import System, as_root
from tests.wq.small_disk import may_mount, small_disk
from wq.data_directory import open_data_directory

AT_ONCE = 3
SUPER = "needs root, who lends PostgreSQL another user and mounts a small disk"
Preparing = Callable[[System, ExitStack], str]


def a_busy_port(system: System, stack: ExitStack) -> str:
    system.port = _taken_port(stack)
    return (
        rf"cannot listen on 127\.0\.0\.1:{system.port}: the port is in use; stop the program .* or set grpc_port to another port"
    )


def a_busy_page_port(system: System, stack: ExitStack) -> str:
    port = _taken_port(stack)
    system.words += ("--http-port", str(port))
    return rf"cannot listen on 127\.0\.0\.1:{port}: the port is in use; .* or set http_port to another port"


def an_open_address(system: System, _: ExitStack) -> str:
    system.words += ("--host", "0.0.0.0")
    return r"host '0\.0\.0\.0' can be reached from other machines and there is no TLS: listen on 127\.0\.0\.1"


def one_port_for_two(system: System, _: ExitStack) -> str:
    system.words += ("--http-port", "6001", "--grpc-port", "6001")
    return r"settings: grpc_port and http_port are both 6001: give one of them another port"


def a_missing_settings_file(system: System, _: ExitStack) -> str:
    system.words += ("--config", "/no/such/file.toml")
    return r"settings: /no/such/file\.toml: no such settings file"


def a_directory_in_use(system: System, stack: ExitStack) -> str:
    stack.enter_context(open_data_directory(system.data, 8, 4))
    return rf"data directory \S+ is in use by process {os.getpid()}: stop that one .* or choose another directory with --data"


def a_directory_of_another_format(system: System, _: ExitStack) -> str:
    system.data.mkdir()
    (system.data / "deployment.json").write_text(json.dumps({"format": 2, "slots": 8, "partitions": 4}))
    return r"has format 2, this version reads format 1: use the version of wq that made it, or choose another .* --data"


def a_directory_of_another_postgres(system: System, _: ExitStack) -> str:
    data = system.data / "postgres" / "data"
    data.mkdir(parents=True)
    (system.data / "deployment.json").write_text(json.dumps({"format": 1, "slots": 8, "partitions": 4}))
    (data / "PG_VERSION").write_text("17\n")
    if as_root():
        shutil.chown(data, "nobody")
    return r"is of PostgreSQL 17, this one is 18: bring it over with pg_upgrade, or choose another data directory with --data"


def a_folder_of_somebody_else(system: System, _: ExitStack) -> str:
    system.data.mkdir()
    (system.data / "photos").mkdir()
    return r"is no data directory of ours \(it holds 'photos'\): choose an empty one with --data"


def other_slots_than_it_was_made_with(system: System, _: ExitStack) -> str:
    with open_data_directory(system.data, 8, 4):
        pass
    system.environment = {"WQ_SLOTS": "16"}
    return r"was made with slots = 8, the settings say 16: set WQ_SLOTS=8, or choose another directory with --data"


def a_place_that_postgres_cannot_enter(system: System, _: ExitStack) -> str:
    secret = system.data / "secret"
    secret.mkdir(parents=True, mode=0o700)
    system.data = secret / "data"
    return rf"PostgreSQL runs as the user 'nobody', who cannot enter {secret}: choose another data directory with --data"


def a_full_disk(system: System, stack: ExitStack) -> str:
    stack.enter_context(small_disk(system.data, 16))
    return r"data directory \S+: only \d+ MB are free on its disk, 537 MB are needed: free some space or choose another"


CASES = (
    a_busy_port,
    a_busy_page_port,
    an_open_address,
    one_port_for_two,
    a_missing_settings_file,
    a_directory_in_use,
    a_directory_of_another_format,
    a_directory_of_another_postgres,
    a_folder_of_somebody_else,
    other_slots_than_it_was_made_with,
    a_place_that_postgres_cannot_enter,
    a_full_disk,
)
FOR_ROOT = (a_place_that_postgres_cannot_enter, a_full_disk)


def _taken_port(stack: ExitStack) -> int:
    taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    return int(taken.getsockname()[1])


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lines() -> dict[Preparing, tuple[str, str]]:
    """What was wanted and what was said, of each case; several at a time, because a start is mostly the loading of modules."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def refusal(case: Preparing) -> tuple[str, str]:
        with reachable_folder() as folder, ExitStack() as stack:
            (folder / "place").mkdir()
            system = System(folder / "place" / "data", 0)
            wanted = case(system, stack)
            async with turn:
                try:
                    return wanted, await system.refused()
                finally:
                    system.clean_up()

    cases = [case for case in CASES if case not in FOR_ROOT or (as_root() and may_mount())]
    found = await asyncio.gather(*map(refusal, cases))
    return dict(zip(cases, found, strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_it_says_in_one_line_what_is_wrong_and_what_to_do(lines: dict[Preparing, tuple[str, str]], case: Preparing) -> None:
    if case not in lines:
        pytest.skip(SUPER)
    wanted, said = lines[case]
    assert re.search(wanted, said), said
