"""`wq up` as a user meets it: where things are, the live line, Ctrl-C, and a second start that goes on."""

import asyncio
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.codec.gateway_frames import STREAM_BATCHES, Closing, Opened, open_frame, read_answer
from mesh.gateway import Gateway, GatewaySettings
from mesh.run import SAME_SIGNAL_S
from tests.builders import some_readings
from tests.flows.process import System, eventually
from tests.flows.reading_back import read_back, settled_ledger
from water.readings import concatenate

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A terminal with `wq up` in its foreground; what it shows, without colours and movements of the cursor."""

    def __init__(self, system: System) -> None:
        self.raw = ""
        self._ours, theirs = os.openpty()
        command = [sys.executable, "-m", "wq", "up", "--data", str(system.data), "--grpc-port", "0"]
        command += ["--http-port", "0", "--web-port", "0"]
        system.process = self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env=os.environ | system.environment | {"TERM": "xterm"},
        )
        os.close(theirs)
        os.set_blocking(self._ours, False)

    @property
    def shown(self) -> str:
        try:
            while chunk := os.read(self._ours, 65536):
                self.raw += chunk.decode()
        except OSError:  # nothing more now, or the program has ended
            pass
        return CONTROL.sub("", self.raw)

    async def shows(self, pattern: str, within_s: float = 60.0) -> re.Match[str]:
        await eventually(lambda: re.search(pattern, self.shown), within_s, lambda: f"no {pattern!r} in:\n{self.shown[-3000:]}")
        found = re.search(pattern, self.shown)
        assert found is not None
        return found

    def press_ctrl_c(self) -> None:
        os.write(self._ours, b"\x03")


async def test_a_first_start_at_a_terminal_streams_on_one_moving_line_and_ctrl_c_says_what_was_stored(new_system: System) -> None:
    terminal = Terminal(new_system)
    try:
        target = (await terminal.shows(r"gRPC +(127\.0\.0\.1:\d+)")).group(1)
        page = (await terminal.shows(r"metrics +(http://\S+)")).group(1)
        await terminal.shows(rf"data +{new_system.data}")
        await terminal.shows(r"[1-9][\d,]* readings/s   lag \d+\.\d s   stored [1-9][\d,]*   streams 3")
        assert json.loads((new_system.data / "endpoint.json").read_text())["grpc"] == target
        metrics = await asyncio.to_thread(lambda: urllib.request.urlopen(page, timeout=10).read().decode())
        assert "wq_streams_open 3.0" in metrics
        assert re.search(r'wq_stage_handled_records\{stage="record"\} [1-9]', metrics)
        terminal.press_ctrl_c()
        await terminal.shows("stopping:")
        stored, accepted = (await terminal.shows(r"stored ([\d,]+) readings in .* \(accepted ([\d,]+),")).groups()
        assert await asyncio.to_thread(terminal.process.wait, 30) == 0
        assert stored == accepted
        moving = terminal.raw[terminal.raw.index("readings/s") : terminal.raw.rindex("readings/s")]
        assert moving.count("readings/s") >= 2
        assert "\n" not in moving
    finally:
        assert new_system.postmaster() is None
        assert not (new_system.data / "endpoint.json").exists()


async def test_a_drain_says_not_serving_then_closing_and_a_second_start_goes_on_with_everything(system: System) -> None:
    sent = [some_readings(500, sensors=20, seed=seed, start=f"2026-02-{seed + 1:02}") for seed in range(20)]
    settings = GatewaySettings(system.target, "gateway-1", "north", max_batch_readings=100, buffer_readings=100_000)
    heard: list[str] = []
    await system.start()
    async with Gateway(settings) as gateway:
        async with watching_health(system.target, heard), an_open_stream(system.target, heard):
            for readings in sent[:10]:
                await gateway.send(readings)
            await eventually(lambda: gateway.statistics.acknowledged, 30, lambda: gateway.statistics.last_error)
            assert system.process is not None
            system.process.send_signal(signal.SIGTERM)
            for readings in sent[10:]:
                await gateway.send(readings)
            await eventually(lambda: len(heard) == 4, 30, lambda: str(heard))
            assert await system.ended() == 0
        assert heard == ["SERVING", "opened", "NOT_SERVING", "closing"]
        assert re.search(r"stored [\d,]+ readings in", system.output())
        acknowledged = gateway.statistics.acknowledged

        before = len(system.output())
        system.words = ("--no-fleet", "--json")
        await system.start()
        await gateway.flush(60)
        await system.says("(going on with what is there)", after=before)
    sums = await settled_ledger(system.target)
    found = await read_back(system.target, list(range(1, 21)))
    assert acknowledged <= sums.stored == len(found) == 10_000
    assert np.unique(concatenate(sent).measured_at_us).size == np.unique(found.measured_at_us).size
    assert await system.stop() == 0
    totals = json.loads(next(line for line in system.output().splitlines() if line.startswith('{"accepted')))
    assert (totals["stored_count"], totals["accepted_count"]) == (sums.stored, sums.accepted)
    assert system.output().count("readings/s") <= 2 * 3  # not at a terminal: a line now and then


@asynccontextmanager
async def watching_health(target: str, heard: list[str]) -> AsyncIterator[None]:
    """Notes what health says of the ingest service, and every change."""
    async with grpc.aio.insecure_channel(target) as channel:
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="waterquality.v1.IngestService"))
        heard.append(health_pb2.HealthCheckResponse.ServingStatus.Name((await call.read()).status))

        async def listen() -> None:
            answer: Any = await call.read()
            heard.append(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

        listening = asyncio.create_task(listen())
        try:
            yield
            await listening
        finally:
            listening.cancel()
            call.cancel()


@asynccontextmanager
async def an_open_stream(target: str, heard: list[str], gateway_id: str = "quiet") -> AsyncIterator[None]:
    """A gateway that has nothing to send, and half-closes when it is told `closing`."""
    async with grpc.aio.insecure_channel(target) as channel:
        call: Any = channel.stream_stream(STREAM_BATCHES)()
        await call.write(open_frame(gateway_id, "north", False))
        assert isinstance(read_answer(await call.read()), Opened)
        heard.append("opened")

        async def listen() -> None:
            assert isinstance(read_answer(await call.read()), Closing)
            heard.append("closing")
            await call.done_writing()

        listening = asyncio.create_task(listen())
        try:
            yield
            await listening
        finally:
            listening.cancel()
            call.cancel()


async def test_a_second_ctrl_c_ends_at_once_and_leaves_nothing_running(system: System) -> None:
    system.environment = {**system.environment, "WQ_DRAIN_S": "600"}
    await system.start()
    async with grpc.aio.insecure_channel(system.target) as channel:
        call: Any = channel.stream_stream(STREAM_BATCHES)()
        await call.write(open_frame("never-ends", "north", False))
        assert isinstance(read_answer(await call.read()), Opened)
        assert system.process is not None
        system.process.send_signal(signal.SIGINT)
        begun_s = monotonic()
        assert isinstance(read_answer(await call.read()), Closing)
        await system.says("stopping:")
        await eventually(lambda: monotonic() > begun_s + 2 * SAME_SIGNAL_S, 5, lambda: "time stands still")
        system.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(system.process.wait, 5) == 130
    assert "ended at once: the next start goes on" in system.output()
    assert "Traceback" not in system.output()
    await eventually(lambda: system.postmaster() is None, 10, lambda: "PostgreSQL still runs")


async def test_ctrl_c_while_it_starts_stops_it_in_order(system: System) -> None:
    process = await system.launch()
    await system.says("Water Quality Mesh")
    assert await system.stop() == 0
    assert "stored 0 readings" in system.output()
    assert process.returncode == 0
    assert system.postmaster() is None
