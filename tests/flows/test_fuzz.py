"""Random bytes and random messages to every RPC of a running system: whatever comes, it is never our fault."""

import asyncio
import math
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waterquality.v1 import catalog_pb2, ingest_pb2, ingest_pb2_grpc, ledger_pb2, query_pb2
from waterquality.v1.reading_pb2 import ReadingColumns

from mesh.unserved import UNSERVED
from tests.builders import START_US
from tests.flows.accounts import account_of
from tests.flows.any_message import FLOATS, messages
from water.parameter import PARAMETERS

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
MORE = int(os.environ.get("WQ_FUZZ", "1"))  # so many times as many examples
COLUMNS = [parameter.column for parameter in PARAMETERS]
HORIZON_US = 946_684_800_000_000
LONG_AHEAD_US = 4_102_444_800_000_000  # 2100-01-01
OURS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.UNAVAILABLE}
SERVICES = [
    *ingest_pb2.DESCRIPTOR.services_by_name.values(),
    *catalog_pb2.DESCRIPTOR.services_by_name.values(),
    *query_pb2.DESCRIPTOR.services_by_name.values(),
    *ledger_pb2.DESCRIPTOR.services_by_name.values(),
    *UNSERVED,
]
METHODS = [method for service in SERVICES for method in service.methods if not method.client_streaming]


def examples(count: int) -> settings:
    """So many of them; the running system is the same for all."""
    return settings(max_examples=count * MORE, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def columns(draw: Any) -> ReadingColumns:
    """A batch: mostly well formed, of readings that are mostly not."""
    n = draw(st.integers(0, 6))
    times = st.integers(START_US, START_US + 5) | st.sampled_from(
        [0, -1, HORIZON_US - 1, HORIZON_US, LONG_AHEAD_US, 2**63 - 1, -(2**63)]
    )
    sensors = st.integers(8001, 8004) | st.sampled_from([0, -1, 2**63 - 1, -(2**63)])
    values = st.floats(width=32) | st.sampled_from(FLOATS)
    message = ReadingColumns()
    for name, kind in (("sensor_id", sensors), ("measured_at_us", times), *((name, values) for name in COLUMNS)):
        is_there = name not in COLUMNS or draw(st.booleans())
        length = draw(st.integers(0, 8)) if draw(st.integers(0, 60)) == 0 else n
        if is_there:
            getattr(message, name).extend(draw(st.lists(kind, min_size=length, max_size=length)))
    return message


def fates(batch: ReadingColumns) -> Counter[str]:
    """What must become of each reading: "" is accepted, else the reason. Written from the contract, one reading at a time."""
    present = {name: list(getattr(batch, name)) for name in COLUMNS if len(getattr(batch, name))}
    lengths = {len(batch.sensor_id), len(batch.measured_at_us), *map(len, present.values())}
    if len(lengths) > 1:
        return Counter({"COLUMNS_UNEQUAL": max(lengths)})
    rows = zip(batch.sensor_id, batch.measured_at_us, *present.values(), strict=True)
    return Counter(_fate(sensor_id, at_us, values) for sensor_id, at_us, *values in rows)


def _fate(sensor_id: int, at_us: int, values: list[float]) -> str:
    if sensor_id <= 0:
        return "INVALID_SENSOR"
    if at_us >= LONG_AHEAD_US:
        return "IN_THE_FUTURE"
    if at_us < HORIZON_US:
        return "TOO_OLD"
    if all(math.isnan(value) for value in values):
        return "NO_VALUES"
    return "NOT_FINITE" if any(math.isinf(value) for value in values) else ""


async def test_of_random_batches_each_reading_has_the_fate_of_the_contract_and_the_ledger_knows(target: str) -> None:
    wanted: Counter[str] = Counter()

    @examples(120)
    @given(st.lists(columns(), max_size=4))
    def stream(batches: list[ReadingColumns]) -> None:
        refused: Counter[str] = Counter()
        for answer in ingest_pb2_grpc.IngestServiceStub(channel).StreamBatches(_frames("fuzz", batches), timeout=20):
            for one in answer.ack.rejections:
                refused[ingest_pb2.RejectionReason.Name(one.reason).removeprefix("REJECTION_REASON_")] += one.reading_count
        fate = sum(map(fates, batches), Counter[str]())
        wanted.update(fate)
        del fate[""]
        assert refused == fate

    with grpc.insecure_channel(target) as channel:
        await asyncio.to_thread(stream)
    account = await account_of(target, "fuzz")
    assert (account.accepted, account.refused) == (wanted.pop(""), dict(wanted))
    assert account.stored + account.duplicate + account.conflicting == account.accepted


def _frames(gateway_id: str, batches: list[ReadingColumns]) -> Iterator[ingest_pb2.StreamBatchesRequest]:
    yield ingest_pb2.StreamBatchesRequest(open=ingest_pb2.StreamOpen(gateway_id=gateway_id, region="north"))
    for sequence, batch in enumerate(batches, 1):
        yield ingest_pb2.StreamBatchesRequest(batch=ingest_pb2.Batch(sequence=sequence, readings=batch))


def spoiled(content: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with one of them changed, or cut off."""
    place = st.integers(0, len(content))
    changed = st.builds(lambda at, byte: content[:at] + bytes([byte]) + content[at + 1 :], place, st.integers(0, 255))
    return changed | place.map(lambda at: content[:at])


async def test_random_frames_never_are_our_fault(target: str) -> None:
    whole = messages(ingest_pb2.StreamBatchesRequest.DESCRIPTOR).map(lambda message: message.SerializeToString())
    numbered = columns().map(lambda batch: list(_frames("", [batch]))[1].SerializeToString())
    frames = st.lists(st.binary(max_size=60) | whole | numbered | numbered.flatmap(spoiled), max_size=4)
    opening = next(_frames("fuzz-frames", [])).SerializeToString()

    @examples(150)
    @given(st.booleans(), frames)
    def stream(opened: bool, sent: list[bytes]) -> None:
        call: Any = channel.stream_stream("/waterquality.v1.IngestService/StreamBatches")
        code = _code(call(iter([opening, *sent] if opened else sent), timeout=20))
        assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)

    with grpc.insecure_channel(target) as channel:
        await asyncio.to_thread(stream)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name.removeprefix("waterquality.v1."))
async def test_random_requests_never_are_our_fault(method: MethodDescriptor, target: str) -> None:
    kind = method.input_type
    asked = messages(kind).map(lambda message: message.SerializeToString())
    count = 5 if method.containing_service in UNSERVED else 25

    @examples(count)
    @given(asked | asked.flatmap(spoiled))
    def ask(request: bytes) -> None:
        path = f"/{method.containing_service.full_name}/{method.name}"
        call: Any = channel.unary_stream(path)  # to this client a single response is a stream of one
        assert _code(call(request, timeout=0.5)) not in OURS

    with grpc.insecure_channel(target) as channel:
        await asyncio.to_thread(ask)


def _code(responses: Any) -> grpc.StatusCode:
    """How the call ends, once all its responses were read."""
    try:
        for _ in responses:
            pass
    except grpc.RpcError as error:
        return cast(grpc.Call, error).code()
    return grpc.StatusCode.OK
