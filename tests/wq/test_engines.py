"""`wq engines`: real servers, started, mended, told apart from others' processes, and ended."""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import aio_pika
import psutil
import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from mesh.adapters.s3 import S3Settings
from mesh.adapters.s3_client import make_client
from mesh.errors import SetupError
from mesh.settings import Settings, read_settings
from tests.engines import reachable_folder
from tests.real import cannot_be_had
from wq.engines import processes, programs
from wq.engines.engine_set import EngineSet, start, stop
from wq.engines.processes import Process
from wq.engines.state import FILE, State, read_state

NAMES = ["kafka-1", "rabbitmq", "s3", "postgres-catalog", "postgres-shard-0"]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """With the data of a set: one broker, and one cluster of two shards."""
    with reachable_folder() as above:
        place = above / "set"
        try:
            start(place, 1, 1, databases_per_cluster=2, fsync=False)
        except SetupError as error:
            stop(place, in_order=False)
            if "make engines" in error.message:
                cannot_be_had(error.message)
            raise
        try:
            yield place
        finally:
            stop(place, in_order=False)


@pytest.fixture
def engines(folder: Path) -> EngineSet:
    """All of it serves."""
    return start(folder)


def wq_engines(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command, as a user runs it."""
    command = [sys.executable, "-m", "wq", "engines", *words, "--dir", str(folder)]
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)


def all_processes(engines: EngineSet) -> dict[str, list[Process]]:
    return {name: engines.processes(name) for name in engines.names}


def problems(engines: EngineSet) -> dict[str, str]:
    return {each.name: each.problem for each in engines.statuses() if each.problem}


def whole_trees(engines: EngineSet) -> set[psutil.Process]:
    """Everything that runs for the set."""
    roots = [psutil.Process(process.pid) for found in all_processes(engines).values() for process in found]
    return {*roots, *(child for root in roots for child in root.children(recursive=True))}


def settings_of(engines: EngineSet) -> Settings:
    return read_settings(engines.settings_file, {}, {})


async def test_every_engine_serves_as_the_settings_file_says(engines: EngineSet) -> None:
    settings = settings_of(engines)
    assert stat.S_IMODE(engines.settings_file.stat().st_mode) == 0o600
    assert AdminClient({"bootstrap.servers": settings.kafka_servers}).list_topics(timeout=10).brokers.keys() == {1}
    async with await aio_pika.connect(settings.rabbitmq_url.get_secret_value(), timeout=10):
        pass
    keys = settings.s3_access_key.get_secret_value(), settings.s3_secret_key.get_secret_value()
    client = make_client(S3Settings(settings.s3_endpoint, settings.s3_bucket, settings.s3_region, *keys))
    client.head_bucket(Bucket=settings.s3_bucket)
    client.close()
    catalog = urlsplit(settings.catalog_url.get_secret_value())
    user = catalog.netloc.rpartition("@")[0]
    assert [urlsplit(shard).path for shard in settings.shards] == ["/shard_0", "/shard_1"]
    for place in (catalog.netloc, *(f"{user}@{urlsplit(shard).netloc}" for shard in settings.shards)):
        path = catalog.path if place == catalog.netloc else "/shard_1"
        with psycopg.connect(urlunsplit((catalog.scheme, place, path, "", ""))) as connection:
            assert connection.execute("SHOW max_connections").fetchone() == ("200",)


def test_nobody_but_this_machine_can_reach_an_engine_and_no_password_is_in_a_command_line(engines: EngineSet) -> None:
    state = read_state(engines.folder)
    assert state is not None
    addresses, words = set(), ""
    for process in whole_trees(engines):
        addresses |= {found.laddr.ip for found in process.net_connections("inet") if found.status == psutil.CONN_LISTEN}
        words += " ".join(process.cmdline())
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert addresses
    assert state.password not in words
    assert state.s3_secret not in words


def test_a_second_up_finds_what_runs_and_starts_nothing(engines: EngineSet) -> None:
    before = all_processes(engines)
    done = wq_engines("up", folder=engines.folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ran already") == len(NAMES)
    assert all_processes(engines) == before


def test_up_after_a_kill_starts_only_what_was_killed_and_at_its_old_address(engines: EngineSet) -> None:
    before = all_processes(engines)
    settings = settings_of(engines)
    victims = {psutil.Process(process.pid) for process in before["rabbitmq"]}
    victims |= {child for victim in victims for child in victim.children(recursive=True)}
    engines.kill9("rabbitmq")
    assert not any(victim.is_running() and victim.status() != psutil.STATUS_ZOMBIE for victim in victims)
    assert problems(engines) == {"rabbitmq": "has ended by itself, or was killed"}
    done = wq_engines("up", folder=engines.folder)
    assert done.returncode == 0, done.stderr
    after = all_processes(engines)
    assert [name for name in NAMES if after[name] != before[name]] == ["rabbitmq"]
    assert settings_of(engines) == settings
    assert problems(engines) == {}


@pytest.mark.parametrize("name", ["s3", "postgres-shard-0", "rabbitmq"])
def test_a_pause_stops_all_of_an_engine_and_status_tells_it_from_a_dead_one(engines: EngineSet, name: str) -> None:
    engines.pause(name)
    tree = [psutil.Process(process.pid) for process in engines.processes(name)]
    tree += [child for root in tree for child in root.children(recursive=True)]
    assert {process.status() for process in tree} == {psutil.STATUS_STOPPED}
    done = wq_engines("status", "--json", folder=engines.folder)
    assert done.returncode == 1
    found = {each["name"]: each for each in json.loads(done.stdout)["engines"]}
    assert {each: found[each]["problem"] for each in NAMES if found[each]["problem"]} == {name: "is paused (SIGSTOP)"}
    engines.resume(name)
    assert problems(engines) == {}


def test_what_postgresql_confirmed_is_there_after_a_kill(engines: EngineSet) -> None:
    settings = settings_of(engines)
    catalog = settings.catalog_url.get_secret_value()
    with psycopg.connect(catalog) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (number INT)")
        connection.execute("INSERT INTO kept VALUES (7)")
    engines.kill9("postgres-catalog")
    engines.start("postgres-catalog")
    with psycopg.connect(catalog) as connection:
        assert connection.execute("SELECT DISTINCT number FROM kept").fetchall() == [(7,)]


def test_a_port_that_somebody_else_holds_is_named_with_who_does(engines: EngineSet) -> None:
    engines.end("s3")
    port = urlsplit(settings_of(engines).s3_endpoint).port
    with socket.create_server(("127.0.0.1", port or 0)), pytest.raises(SetupError) as caught:
        engines.start("s3")
    assert f"port {port} is held by process {os.getpid()} (" in caught.value.message
    assert FILE in caught.value.message
    assert problems(engines) == {"s3": "not started"}


def test_a_process_that_has_the_number_of_one_of_ours_by_now_is_not_touched(engines: EngineSet) -> None:
    engines.end("s3")
    with subprocess.Popen(["sleep", "100"]) as other:
        try:
            content = json.loads((engines.folder / FILE).read_text())
            content["processes"]["s3"] = [{"pid": other.pid, "started": "another boot:1"}]
            (engines.folder / FILE).write_text(json.dumps(content))
            assert problems(engines) == {"s3": "has ended by itself, or was killed"}
            engines.kill9("s3")
            engines.end("s3")
            engines.start("s3")
            assert engines.processes("s3")[0].pid != other.pid
            assert other.poll() is None
        finally:
            other.kill()


def test_down_ends_everything_of_the_set_and_nothing_else_and_up_finds_its_addresses_again(engines: EngineSet) -> None:
    settings = settings_of(engines)
    ours = whole_trees(engines)
    neighbour = processes.spawn(["sleep", "100"], engines.folder, engines.folder / "neighbour.log", {})
    try:
        done = wq_engines("down", folder=engines.folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("  ended  ") == len(NAMES)
        assert not [process for process in ours if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        assert processes.is_alive(neighbour)
        assert set(problems(engines)) == set(NAMES)
        assert "no engine" in wq_engines("down", folder=engines.folder).stdout
    finally:
        processes.kill([neighbour])
    start(engines.folder)
    assert settings_of(engines) == settings
    assert problems(engines) == {}


def test_a_set_is_never_made_smaller_and_every_reason_is_told_at_once(engines: EngineSet) -> None:
    with pytest.raises(SetupError) as caught:
        start(engines.folder, 3, 0, databases_per_cluster=1)
    for reason in ("3 brokers are wanted", "0 shards are wanted", "1 databases per cluster are wanted", "--dir"):
        assert reason in caught.value.message


def test_databases_that_are_added_leave_the_others_where_they_are() -> None:
    state = State(1)
    state.grow(2, 2)
    assert state.databases == [0, 0, 1, 1]
    state.grow(3, 2)
    assert state.databases == [0, 0, 1, 1, 2, 2]
    state.grow(3, 3)
    assert state.databases == [0, 0, 1, 1, 2, 2, 0, 1, 2]


def test_an_engine_that_ends_while_it_starts_is_told_with_the_end_of_its_log(
    engines: EngineSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines.end("s3")
    program = tmp_path / "versitygw"
    program.write_text("#!/bin/sh\necho it is not my day\nexit 1\n")
    program.chmod(0o755)
    (tmp_path / "versitygw.version").write_text("versitygw@v0")
    monkeypatch.setattr(programs, "TOOLS", tmp_path)
    with pytest.raises(SetupError) as caught:
        engines.start("s3")
    assert "s3 has ended" in caught.value.message
    assert "it is not my day" in caught.value.message
    assert problems(engines) == {"s3": "has ended by itself, or was killed"}
    monkeypatch.setattr(programs, "TOOLS", tmp_path / "nowhere")
    with pytest.raises(SetupError, match="make engines"):
        engines.start("s3")


def test_status_without_a_set_says_how_to_make_one(tmp_path: Path) -> None:
    done = wq_engines("status", folder=tmp_path)
    assert done.returncode == 1
    assert "wq engines up" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_everything_that_a_process_started_is_killed_with_it(tmp_path: Path) -> None:
    tree = "sleep 100 & setsid sleep 100 & echo $! > other; wait"
    root = processes.spawn(["sh", "-c", tree], tmp_path, tmp_path / "log", {})
    other = tmp_path / "other"
    while not (other.exists() and other.read_text().strip()):
        assert processes.is_alive(root)
    children = psutil.Process(root.pid).children(recursive=True)
    assert len(children) == 2
    processes.kill([root])
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_a_process_that_ignores_sigterm_is_killed_in_the_end(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    stubborn = processes.spawn(
        ["sh", "-c", "trap '' TERM; touch ready; while :; do sleep 1; done"], tmp_path, tmp_path / "log", {}
    )
    while not ready.exists():
        assert processes.is_alive(stubborn)
    assert processes.end([stubborn], 0.3) is False
    assert not processes.is_alive(stubborn)
    assert processes.end([stubborn], 0.3) is True
