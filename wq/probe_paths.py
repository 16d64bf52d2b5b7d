"""By which paths does a reading come back, and is it there what it was when it was written? One function per path."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration
from waterquality.v1 import archive_pb2, archive_pb2_grpc, ledger_pb2, ledger_pb2_grpc, query_pb2, query_pb2_grpc

from mesh.codec.columns import read_flagged
from mesh.codec.times import write_time
from mesh.errors import Fault
from water.parameter import PARAMETERS
from water.readings import Readings, concatenate

POLL_S = 0.1
_CALL_S = 10.0
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Written:
    """Readings of one round, all measured at `at_us`, by sensor; `position`: what their acknowledgement named."""

    readings: Readings
    at_us: int
    position: str

    @property
    def sensor_ids(self) -> list[int]:
        """Ascending."""
        return [int(sensor) for sensor in self.readings.sensor_id]

    def filter(self) -> query_pb2.ReadingFilter:
        """Exactly these readings."""
        start, end = write_time(self.at_us), write_time(self.at_us + 1)
        return query_pb2.ReadingFilter(sensor_ids=self.sensor_ids, start_time=start, end_time=end)

    def freshness(self, within_s: float) -> query_pb2.Freshness:
        """They must be there already, or soon."""
        wait = Duration()
        wait.FromMilliseconds(round(within_s * 1000))
        return query_pb2.Freshness(at_least=[self.position], wait_duration=wait)


Path = Callable[[grpc.aio.Channel, Written, float], Awaitable[None]]


async def latest(channel: grpc.aio.Channel, written: Written, within_s: float) -> None:
    """GetLatest. Like every path: returns when the readings came back as they were written, raises Fault where they did not,
    AioRpcError where the call failed; about `within_s` at most."""
    sensors = query_pb2.ReadingFilter(sensor_ids=written.sensor_ids)
    request = query_pb2.GetLatestRequest(filter=sensors, freshness=written.freshness(within_s))
    answer = await query_pb2_grpc.QueryServiceStub(channel).GetLatest(request, timeout=within_s + _CALL_S)
    _must_be(read_flagged(answer.latest), written)


async def rows(channel: grpc.aio.Channel, written: Written, within_s: float) -> None:
    """ListReadings."""
    request = query_pb2.ListReadingsRequest(filter=written.filter(), freshness=written.freshness(within_s), page_size=_PAGE)
    answer = await query_pb2_grpc.QueryServiceStub(channel).ListReadings(request, timeout=within_s + _CALL_S)
    found = {(row.sensor_id, row.measured_time.ToMicroseconds()): row for row in answer.readings}
    missing = [sensor for sensor in written.sensor_ids if (sensor, written.at_us) not in found]
    _refuse(missing, f"ListReadings has nothing of sensors {missing} at that time")
    for index, sensor in enumerate(written.sensor_ids):
        values = {value.parameter: value.value for value in found[sensor, written.at_us].values}
        wanted = _given(written.readings, index)
        _refuse(values != wanted, f"ListReadings has {values} of sensor {sensor}, written was {wanted}")


async def stream(channel: grpc.aio.Channel, written: Written, within_s: float) -> None:
    """StreamReadings."""
    request = query_pb2.StreamReadingsRequest(filter=written.filter(), freshness=written.freshness(within_s))
    call = query_pb2_grpc.QueryServiceStub(channel).StreamReadings(request, timeout=within_s + _CALL_S)
    parts = [read_flagged(frame.readings) async for frame in call]
    _must_be(concatenate(parts), written)


async def aggregate(channel: grpc.aio.Channel, written: Written, within_s: float) -> None:
    """AggregateReadings: of one reading count is 1, and mean, min and max are its value."""
    request = query_pb2.AggregateReadingsRequest(
        filter=written.filter(), freshness=written.freshness(within_s), include_failed=True, page_size=_PAGE
    )
    answer = await query_pb2_grpc.QueryServiceStub(channel).AggregateReadings(request, timeout=within_s + _CALL_S)
    found = {(series.sensor_id, int(series.parameter)): series for series in answer.series}
    for index, sensor in enumerate(written.sensor_ids):
        for parameter, value in _given(written.readings, index).items():
            series = found.get((sensor, parameter))
            _refuse(series is None, f"AggregateReadings has nothing of parameter {parameter} of sensor {sensor}")
            assert series is not None
            told = (list(series.count), list(series.min), list(series.max))
            _refuse(told != ([1], [value], [value]), f"AggregateReadings has {told} of sensor {sensor}, written was {value}")


async def status(channel: grpc.aio.Channel, written: Written, within_s: float) -> None:
    """GetPipelineStatus names no problem."""
    answer = await query_pb2_grpc.QueryServiceStub(channel).GetPipelineStatus(
        query_pb2.GetPipelineStatusRequest(), timeout=min(within_s, _CALL_S)
    )
    problems = [f"{stage.stage}: {stage.problem}" for stage in answer.stages if stage.problem]
    _refuse(problems, f"GetPipelineStatus: {'; '.join(problems)}")


@dataclass(slots=True)
class Books:
    """What the ledger has of the probe's gateway since `since_us`, an hour's start: `before` of earlier probes."""

    gateway_id: str
    since_us: int
    before: dict[str, int] = field(default_factory=dict)
    sent: int = 0

    async def open(self, channel: grpc.aio.Channel) -> None:
        """Notes what is there. Nothing may be on its way."""
        self.before = await self._sums(channel)

    async def agree(self, channel: grpc.aio.Channel, within_s: float) -> None:
        """GetLedger: what was written so far is accepted and stored, and nothing else came of it."""
        wanted = {"accepted": self.sent, "stored": self.sent}
        async with _at_most(within_s, "GetLedger does not have what was written"):
            while (now := await self.now(channel)) | wanted != now:
                _refuse(
                    now["accepted"] > self.sent, f"GetLedger: {self.gateway_id} sent {now['accepted']}, written were {self.sent}"
                )
                await asyncio.sleep(POLL_S)
        wrong = {name: count for name, count in now.items() if count and name not in ("accepted", "stored", "archived", "sent")}
        _refuse(wrong, f"GetLedger: {wrong} of {self.gateway_id}: each reading of it is new and can be stored")

    async def now(self, channel: grpc.aio.Channel) -> dict[str, int]:
        """Counts of what this probe has written."""
        return {name: count - self.before.get(name, 0) for name, count in (await self._sums(channel)).items()}

    async def _sums(self, channel: grpc.aio.Channel) -> dict[str, int]:
        request = ledger_pb2.GetLedgerRequest(
            gateway_ids=[self.gateway_id], page_size=_PAGE, start_time=write_time(self.since_us)
        )
        names = ("sent", "accepted", "stored", "duplicate", "conflicting", "archived", "dead_at_screen", "dead_at_record")
        sums = dict.fromkeys((*names, "dead_at_archive", "refused"), 0)
        while True:
            answer = await ledger_pb2_grpc.LedgerServiceStub(channel).GetLedger(request, timeout=_CALL_S)
            for entry in answer.entries:
                for name in (*names, "dead_at_archive"):
                    sums[name] += getattr(entry, f"{name}_count")
                sums["refused"] += sum(refused.count for refused in entry.refused)
            if not answer.next_page_token:
                return sums
            request.page_token = answer.next_page_token


async def in_manifest(channel: grpc.aio.Channel, written: Written, region: str) -> bool:
    """Whether an object of the archive's manifest has the time of these readings in this region."""
    request = archive_pb2.ListObjectsRequest(page_size=1)
    request.filter.regions.append(region)
    request.filter.start_time.CopyFrom(write_time(written.at_us))
    request.filter.end_time.CopyFrom(write_time(written.at_us + 1))
    answer = await archive_pb2_grpc.ArchiveServiceStub(channel).ListObjects(request, timeout=_CALL_S)
    return bool(answer.objects)


def _must_be(found: Readings, written: Written) -> None:
    """The same sensors, times and values."""
    wanted = written.readings
    order = np.argsort(found.sensor_id, kind="stable")
    sensors = found.sensor_id[order].tolist()
    _refuse(sensors != written.sensor_ids, f"sensors {sensors} came back, written were {written.sensor_ids}")
    times = found.measured_at_us[order].tolist()
    _refuse(set(times) != {written.at_us}, f"readings of {sorted(set(times))} came back, written was {written.at_us}")
    differ = ~np.isclose(found.values[:, order], wanted.values, rtol=0, atol=0, equal_nan=True)
    _refuse(differ.any(), f"values of sensors {wanted.sensor_id[differ.any(axis=0)].tolist()} are not what was written")


def _given(readings: Readings, index: int) -> dict[int, float]:
    """Values of one reading by Parameter number."""
    column = readings.values[:, index]
    return {each.number: float(column[each.number - 1]) for each in PARAMETERS if not np.isnan(column[each.number - 1])}


def _refuse(wrong: object, problem: str) -> None:
    if wrong:
        raise Fault(problem)


def _at_most(within_s: float, problem: str) -> "_AtMost":
    return _AtMost(within_s, problem)


class _AtMost:
    """A timeout that says what did not come."""

    def __init__(self, within_s: float, problem: str) -> None:
        self._timeout = asyncio.timeout(within_s)
        self._problem = f"{problem} within {within_s:g} s"

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *about: object) -> None:
        try:
            await self._timeout.__aexit__(*about)  # type: ignore[arg-type]
        except TimeoutError:
            raise Fault(self._problem) from None
