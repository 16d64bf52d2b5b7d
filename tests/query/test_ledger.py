"""GetLedger: what became of every reading, when the answer is final, and pages that belong to one question (law 1)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import grpc
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from waterquality.v1 import ledger_pb2, ledger_pb2_grpc
from waterquality.v1.ledger_pb2 import GetLedgerRequest, GetLedgerResponse

from mesh import ledger
from mesh.clock import SystemClock
from mesh.codec.log_records import Dead, write_dead
from mesh.codec.stamp import HOUR_US, Stamp, write_stamp
from mesh.errors import InvalidArgument, Unavailable, WaterError, from_rpc
from mesh.ports import Partition
from mesh.shards import transaction
from mesh.stages import Progress
from mesh.tokens import write_position, write_token
from mesh.topics import ACCEPTED, DEAD, REFUSED, SCREENED
from query_svc.count import Count
from query_svc.fences import Fences
from query_svc.ledger_answer import LedgerAnswer, Question
from query_svc.ledger_service import LedgerService
from query_svc.record import Record as Recorder
from tests.builders import START_US, some_readings
from tests.query.deployment import Deployment, FreshDatabase, deployed, running
from tests.query.shard_trouble import away


@dataclass(slots=True)
class Client:
    """Asks over real gRPC."""

    mesh: Deployment
    stub: "ledger_pb2_grpc.LedgerServiceAsyncStub"

    async def ask(self, **question: object) -> GetLedgerResponse:
        return await self.stub.GetLedger(GetLedgerRequest(**question))  # type: ignore[arg-type]

    async def refusal(self, **question: object) -> WaterError:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.ask(**question)
        return from_rpc(refused.value)

    def workers(self) -> tuple[Recorder, Count]:
        mesh, clock = self.mesh, SystemClock()
        fences = Fences(mesh.log, mesh.catalog, mesh.recorded, clock)
        recorder = Recorder(mesh.log, mesh.shards, Progress("record"))
        return recorder, Count(mesh.log, mesh.catalog, fences, clock, Progress("count"))


@pytest.fixture
async def client(fresh_database: FreshDatabase) -> AsyncIterator[Client]:
    async with deployed(fresh_database) as mesh:
        server = grpc.aio.server()
        answer = LedgerAnswer(mesh.log, mesh.catalog, mesh.shards, mesh.recorded, SystemClock())
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(
            LedgerService(answer, mesh.log.log_id, mesh.log.partition_count), server
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Client(mesh, ledger_pb2_grpc.LedgerServiceStub(channel))
        await server.stop(0)


async def put_everything(mesh: Deployment) -> None:
    """10 sent by g1: 2 refused, 8 accepted: 5 screened (4 keys, one of them three times), 2 dead at screen, 1 dead at record."""
    readings = some_readings(4, sensors=4)
    three_times = readings.take([0, 1, 2, 3, 0])  # type: ignore[arg-type]
    await mesh.append(Partition(REFUSED, 0), b"", write_stamp(Stamp("g1", START_US, 2, {3: 2})))
    for part in (three_times, some_readings(2), some_readings(1)):
        await mesh.accept(part)
    await mesh.put(three_times)
    await mesh.append(Partition(DEAD, 0), write_dead(Dead("screen", ACCEPTED, 0, 1, "g1", START_US, 2, "", b"")))
    await mesh.put(some_readings(0))
    await mesh.put(some_readings(1), value=b"\xff garbage")


async def test_every_reading_that_was_sent_is_found_again_and_the_laws_hold(client: Client) -> None:
    await put_everything(client.mesh)
    recorder, count = client.workers()
    async with running(recorder.run, count.run):
        answer = await client.ask(wait_duration={"seconds": 30})
    assert answer.caught_up
    assert answer.balanced
    (entry,) = answer.entries
    assert entry.hour_time.ToMicroseconds() == START_US
    assert (entry.gateway_id, entry.sent_count, entry.accepted_count, entry.settled) == ("g1", 10, 8, False)
    assert [(refused.reason, refused.count) for refused in entry.refused] == [(3, 2)]
    assert (entry.stored_count, entry.duplicate_count, entry.conflicting_count) == (4, 1, 0)
    assert (entry.dead_at_screen_count, entry.dead_at_record_count) == (2, 1)


async def test_without_a_wish_to_wait_the_answer_comes_at_once_and_is_truthful(client: Client) -> None:
    assert (await client.ask()).caught_up, "nothing was ever sent"
    await put_everything(client.mesh)
    assert not (await client.ask()).caught_up
    recorder, count = client.workers()
    async with running(recorder.run):
        await client.mesh.all_recorded()
    assert not (await client.ask()).caught_up, "not counted"
    async with running(count.run):
        assert (await client.ask(wait_duration={"seconds": 30})).caught_up
    assert (await client.ask()).caught_up
    await client.mesh.append(Partition(DEAD, 3), write_dead(Dead("screen", ACCEPTED, 3, 9, "g1", START_US, 1, "", b"")))
    assert not (await client.ask()).caught_up, "something dead is not counted"


async def test_a_position_is_waited_for_and_given_up_in_time(client: Client) -> None:
    mesh = client.mesh
    await mesh.put(some_readings(3))
    offset = await mesh.accept(some_readings(3))
    here = write_position(mesh.log.log_id, ACCEPTED, 0, offset)
    beyond = write_position(mesh.log.log_id, ACCEPTED, 0, offset + 1)
    recorder, count = client.workers()
    async with running(recorder.run, count.run):
        assert (await client.ask(at_least=[here])).caught_up
        late = await client.ask(at_least=[here, beyond], wait_duration={"nanos": 200_000_000})
    assert not late.caught_up
    assert late.entries[0].stored_count == 3


async def test_a_lost_reading_and_an_invented_one_do_not_hide_each_other(client: Client) -> None:
    async with transaction(client.mesh.catalog) as connection:
        await ledger.add(connection, {("a", START_US, "accepted"): 10, ("b", START_US, "accepted"): 10})
    async with transaction(client.mesh.shards.engines[0]) as connection:
        await ledger.add(connection, {("a", START_US, "stored"): 9, ("b", START_US, "stored"): 11})
    assert not (await client.ask()).balanced
    async with transaction(client.mesh.shards.engines[1]) as connection:
        await ledger.add(connection, {("a", START_US, "duplicate"): 1})
    assert (await client.ask(gateway_ids=["a"])).balanced
    answer = await client.ask(gateway_ids=["b"], page_size=1)
    assert [entry.stored_count for entry in answer.entries] == [11]
    assert not answer.balanced


async def fill(client: Client) -> list[tuple[str, int]]:
    keys = [(f"g{number}", START_US + hour * HOUR_US) for number in range(5) for hour in range(4)]
    for place, engine in enumerate((client.mesh.catalog, *client.mesh.shards.engines.values())):
        async with transaction(engine) as connection:
            measure = "stored" if place else "accepted"
            mine = [key for turn, key in enumerate(keys) if place == 0 or turn % 2 == place - 1]
            await ledger.add(connection, {(*key, measure): 1 for key in mine})
    return keys


@pytest.mark.parametrize("page_size", [1, 3, 7, 20, 10_001])
async def test_pages_hold_every_entry_once_in_order_and_every_page_speaks_for_all(client: Client, page_size: int) -> None:
    keys = await fill(client)
    found, token = [], ""
    for _ in range(21):
        page = await client.ask(page_size=page_size, page_token=token)
        assert page.balanced
        assert len(page.entries) <= page_size
        assert all(entry.accepted_count == entry.stored_count == 1 for entry in page.entries)
        found += [(entry.gateway_id, entry.hour_time.ToMicroseconds()) for entry in page.entries]
        token = page.next_page_token
        if not token:
            break
    assert found == keys


async def test_hours_and_gateways_are_filtered_by_the_start_of_the_hour(client: Client) -> None:
    await fill(client)
    start, end = START_US + HOUR_US, START_US + 3 * HOUR_US
    answer = await client.ask(
        gateway_ids=["g1", "g3", "unknown"],
        start_time={"seconds": start // 1_000_000},
        end_time={"seconds": end // 1_000_000},
    )
    found = [(entry.gateway_id, entry.hour_time.ToMicroseconds()) for entry in answer.entries]
    assert found == [(gateway, START_US + hour * HOUR_US) for gateway in ("g1", "g3") for hour in (1, 2)]


async def test_a_token_of_another_question_is_refused(client: Client) -> None:
    await fill(client)
    token = (await client.ask(page_size=1)).next_page_token
    assert (await client.ask(page_size=2, page_token=token)).entries
    for other in ({"gateway_ids": ["g1"]}, {"start_time": {"seconds": 1}}, {"end_time": {"seconds": 1}}):
        error = await client.refusal(page_token=token, **other)
        assert isinstance(error, InvalidArgument)
        assert "page_token" in error.fields


async def test_a_question_that_can_never_be_answered_names_the_field(client: Client) -> None:
    elsewhere = write_position("another log", ACCEPTED, 0, 0)
    nowhere = write_position(client.mesh.log.log_id, SCREENED, 0, 0)
    outside = write_position(client.mesh.log.log_id, ACCEPTED, 4, 0)
    questions: list[tuple[str, dict[str, object]]] = [
        ("page_size", {"page_size": -1}),
        ("page_token", {"page_token": "garbage"}),
        ("page_token", {"page_token": write_token("readings", {"of": "", "after": ["g", 0]})}),
        ("wait_duration", {"wait_duration": {"seconds": -1}}),
        ("at_least", {"at_least": ["x"] * 101}),
        ("at_least[0]", {"at_least": ["x"]}),
        ("at_least[0]", {"at_least": [elsewhere]}),
        ("at_least[0]", {"at_least": [nowhere]}),
        ("at_least[0]", {"at_least": [outside]}),
        ("start_time", {"start_time": {"seconds": 10**15}}),
        ("gateway_ids", {"gateway_ids": ["g"] * 1001}),
        ("gateway_ids", {"gateway_ids": ["g\0"]}),
    ]
    for field, question in questions:
        error = await client.refusal(**question)
        assert isinstance(error, InvalidArgument), question
        assert field in error.fields, question


async def test_a_settled_hour_says_so(client: Client) -> None:
    await fill(client)
    async with transaction(client.mesh.catalog) as connection:
        await connection.exec_driver_sql(f"INSERT INTO hour_fences (hour_us, settled) VALUES ({START_US}, true)")
    answer = await client.ask(gateway_ids=["g1"])
    assert [entry.settled for entry in answer.entries] == [True, False, False, False]
    assert isinstance(answer, ledger_pb2.GetLedgerResponse)


class Interrupted(LedgerAnswer):
    """Something happens once the sums of a database are read."""

    def __init__(self, mesh: Deployment, happens: Callable[[], Awaitable[None]]) -> None:
        super().__init__(mesh.log, mesh.catalog, mesh.shards, mesh.recorded, SystemClock())
        self._happens = happens

    async def _rows(self, database: AsyncEngine, question: Question) -> list[tuple[str, int, dict[str, int]]]:
        rows = await super()._rows(database, question)
        await self._happens()
        return rows


async def test_sums_that_were_read_before_the_hour_was_settled_are_not_called_final(client: Client) -> None:
    async def settle() -> None:
        async with transaction(client.mesh.catalog) as connection:
            await connection.exec_driver_sql(
                f"INSERT INTO hour_fences (hour_us, settled) VALUES ({START_US}, true) ON CONFLICT DO NOTHING"
            )

    await fill(client)
    answer = Interrupted(client.mesh, settle)
    assert not any(entry.settled for entry in (await answer.page(Question())).entries)
    assert any(entry.settled for entry in (await answer.page(Question())).entries)


async def test_sums_that_disagree_because_readings_arrive_meanwhile_are_no_loss(client: Client) -> None:
    async def nothing() -> None:
        pass

    async def arrive() -> None:
        await client.mesh.accept(some_readings(1))

    async with transaction(client.mesh.catalog) as connection:
        await ledger.add(connection, {("a", START_US, "accepted"): 1})
    page, caught_up = await Interrupted(client.mesh, nothing).answer(Question(), {}, 0.0)
    assert caught_up
    assert not page.balanced, "nothing arrives, so this one is lost"
    page, caught_up = await Interrupted(client.mesh, arrive).answer(Question(), {}, 0.0)
    assert not caught_up
    assert not page.balanced


async def test_without_a_shard_there_is_no_sum_and_that_is_said_at_once(client: Client) -> None:
    url = client.mesh.shards.engines[1].url.render_as_string(hide_password=False)
    async with away(url), asyncio.timeout(10):
        refusal = await client.refusal()
        assert (refusal.reason, refusal.retry_after_s) == ("DATABASE_AWAY", 1.0)
        answer = LedgerAnswer(client.mesh.log, client.mesh.catalog, client.mesh.shards, client.mesh.recorded, SystemClock())
        for ask in (answer.page(Question()), answer.totals()):
            with pytest.raises(Unavailable, match=r"no sum without shard 1: database .* is away"):
                await ask
    assert (await client.ask()).balanced
