"""RabbitMQ as an Exchange: what is refused at start, what it makes there, and how it gets over what goes wrong in between."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiormq
import pytest
import structlog

from mesh.adapters import rabbitmq_topology
from mesh.adapters.rabbitmq import RabbitExchange, open_rabbitmq_exchange
from mesh.clock import SystemClock
from mesh.errors import InvalidArgument, SetupError, Unavailable
from mesh.ports import Delivery, Priority
from tests.adapters.rabbitmq_node import OwnNode, own_node, vhost_of
from tests.proxy import BreakableProxy
from tests.query.deployment import until

CLOCK = SystemClock()


@pytest.fixture(scope="module")
def node() -> Iterator[OwnNode]:
    with own_node() as node:
        yield node


@pytest.fixture
def url(node: OwnNode) -> str:
    """An empty virtual host."""
    return node.fresh_vhost()


@pytest.fixture
async def exchange(url: str) -> AsyncIterator[RabbitExchange]:
    async with open_rabbitmq_exchange(url, CLOCK) as exchange:
        yield exchange


async def refused(url: str, queue_type: str = "classic") -> str:
    """What the start says."""
    with pytest.raises(SetupError) as caught:
        async with open_rabbitmq_exchange(url, CLOCK, queue_type=queue_type):
            pass
    return caught.value.message


async def soon(tasks: AsyncIterator[Delivery]) -> Delivery:
    """The next, however often RabbitMQ is away before."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await anext(tasks)
            except Unavailable:
                continue


@asynccontextmanager
async def channel_to(url: str) -> AsyncIterator[aiormq.abc.AbstractChannel]:
    async with aiormq.connect(url) as connection:
        yield await connection.channel()


async def test_wrong_credentials_are_refused_with_the_mend_and_without_the_password(node: OwnNode, url: str) -> None:
    for user, password in (("wq", "wrongsecret"), ("nobody", "wrongsecret")):
        message = await refused(node.url(vhost_of(url), user=user, password=password))
        assert f"refuses the user '{user}'" in message
        assert "rabbitmq_url" in message
        assert "wrongsecret" not in message


async def test_a_virtual_host_that_is_missing_or_forbidden_is_named_with_the_mend(node: OwnNode, url: str) -> None:
    node.tell("PUT", "users/stranger", {"password": "strange", "tags": ""})
    for wrong in (node.url("nowhere"), node.url(vhost_of(url), user="stranger", password="strange")):
        message = await refused(wrong)
        assert f"refuses the virtual host '{vhost_of(wrong)}'" in message
        assert "rabbitmqctl add_vhost" in message


async def test_missing_rights_are_listed_each_with_its_mend(node: OwnNode, url: str) -> None:
    node.tell("PUT", "users/weak", {"password": "weakness", "tags": ""})
    node.permit("weak", vhost_of(url), "^(water.*|high_priority_queue.*)$")
    message = await refused(node.url(vhost_of(url), user="weak", password="weakness"))
    for queue in ("low_priority_queue", "low_priority_queue.retry_1s", "dead_tasks"):
        assert f"queue {queue} may not be set up" in message
    assert "queue high_priority_queue may" not in message
    assert f'rabbitmqctl set_permissions -p {vhost_of(url)} weak ".*" ".*" ".*"' in message


async def test_every_queue_with_other_arguments_is_named_with_how_to_remove_it(url: str) -> None:
    async with channel_to(url) as channel:
        await channel.queue_declare("high_priority_queue", durable=True)
        await channel.queue_declare("dead_tasks", durable=True, arguments={"x-max-length": 3})
    message = await refused(url)
    for queue in ("high_priority_queue", "dead_tasks"):
        assert f"queue {queue} is there with other settings" in message
        assert f"rabbitmqctl delete_queue -p {vhost_of(url)} --if-empty {queue}" in message
    assert message.count("other settings") == 2


async def test_another_queue_type_is_refused_where_the_queues_are_there(url: str, exchange: RabbitExchange) -> None:
    assert "queue low_priority_queue is there with other settings" in await refused(url, "quorum")
    assert "classic or quorum" in await refused(url, "stream")


@pytest.mark.parametrize("wrong", ["", "localhost", "http://wq:mysecret@h/", "amqp://wq:mysecret@h:port/", "amqp://h/v"])
async def test_what_is_no_address_is_refused_and_not_repeated(wrong: str) -> None:
    message = await refused(wrong)
    assert "amqp://user:password@host:port/vhost" in message
    assert "mysecret" not in message


async def test_nobody_there_and_nobody_answering_are_unavailable_within_the_deadline(node: OwnNode, url: str) -> None:
    async with BreakableProxy(node.port) as proxy:
        proxy.pause()
        for wrong, most_s in ((node.url("v", 1), 2), (node.url(vhost_of(url), proxy.port), 12)):
            async with asyncio.timeout(most_s):
                with pytest.raises(Unavailable, match=r"RabbitMQ at 127\.0\.0\.1"):
                    async with open_rabbitmq_exchange(wrong, CLOCK):
                        pass


async def test_queues_and_exchanges_have_their_public_names_and_outlive_us(
    node: OwnNode, url: str, exchange: RabbitExchange
) -> None:
    exchanges = {each["name"]: (each["type"], each["durable"]) for each in node.look(f"exchanges/{vhost_of(url)}")}
    assert exchanges["water"] == ("direct", True)
    assert "water.dead" in exchanges
    async with exchange.follow("board-1", 7):
        queues = node.queues(url)
        follower = queues.pop("medium_priority_queue.board-1")
        assert (follower["exclusive"], follower["arguments"]["x-max-length"]) == (True, 7)
    assert "medium_priority_queue.board-1" not in node.queues(url)
    assert queues["high_priority_queue"]["arguments"]["x-max-priority"] == 5
    assert {"low_priority_queue", "dead_tasks", "high_priority_queue.retry_1024s"} <= set(queues)
    assert all(queue["durable"] for queue in queues.values())
    assert all("x-max-length" in queue["arguments"] for queue in queues.values())


async def test_a_full_queue_takes_no_more_and_loses_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq_topology, "DEPTH_LIMIT", 3)
    async with open_rabbitmq_exchange(url, CLOCK) as exchange:
        bodies = [f"{i}".encode() for i in range(10)]
        outcomes = [await outcome(exchange.publish(Priority.LOW, body)) for body in bodies]
        assert {each.reason for each in outcomes if each} == {"QUEUE_FULL"}
        confirmed = [body for body, refusal in zip(bodies, outcomes, strict=True) if refusal is None]
        assert len(confirmed) <= 4
        async with exchange.take(Priority.LOW, 1) as tasks:
            for body in confirmed:
                task = await soon(tasks)
                assert task.body == body
                await task.done()
        await exchange.publish(Priority.LOW, b"room again")


async def outcome(attempt: Coroutine[None, None, None]) -> Unavailable | None:
    try:
        await attempt
    except Unavailable as error:
        return error
    return None


async def test_a_deleted_queue_is_made_again_by_whoever_publishes_or_takes(
    node: OwnNode, url: str, exchange: RabbitExchange
) -> None:
    await exchange.publish(Priority.HIGH, b"gone with its queue")
    node.tell("DELETE", f"queues/{vhost_of(url)}/high_priority_queue")
    with pytest.raises(Unavailable, match="no queue for high_priority_queue"):
        await exchange.publish(Priority.HIGH, b"returned")
    await exchange.publish(Priority.HIGH, b"1")
    async with exchange.take(Priority.HIGH, 1) as tasks:
        task = await soon(tasks)
        assert task.body == b"1"
        waiting = asyncio.ensure_future(soon(tasks))
        await asyncio.wait([waiting], timeout=0.2)
        node.tell("DELETE", f"queues/{vhost_of(url)}/high_priority_queue")
        await until(lambda: published(exchange, b"2"))
        assert (await waiting).body == b"2"


async def published(exchange: RabbitExchange, body: bytes) -> bool:
    return await outcome(exchange.publish(Priority.HIGH, body)) is None


async def test_connections_that_the_server_closes_come_back(node: OwnNode, url: str, exchange: RabbitExchange) -> None:
    await exchange.publish(Priority.HIGH, b"1")
    async with exchange.take(Priority.HIGH, 1) as tasks, exchange.follow("board", 3) as board:
        await (await soon(tasks)).done()
        waiting = asyncio.ensure_future(soon(tasks))
        await asyncio.wait([waiting], timeout=0.2)
        await asyncio.to_thread(node.control, "close_all_connections", "--vhost", vhost_of(url), "maintenance")
        await until(lambda: published(exchange, b"2"))
        assert (await waiting).body == b"2"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await anext(board)
        await exchange.publish(Priority.MEDIUM, b"news")
        assert await anext(board) == b"news"


async def test_a_second_reader_of_a_name_waits_for_the_first_to_go(exchange: RabbitExchange) -> None:
    async with AsyncExitStack() as first:
        await first.enter_async_context(exchange.follow("board", 3))
        with pytest.raises(Unavailable, match=r"medium_priority_queue\.board"):
            async with exchange.follow("board", 3):
                pass
        await first.aclose()
        async with exchange.follow("board", 3):
            pass
    for name, limit in (("", 3), ("x" * 250, 3), ("board", 0), ("board", 1001)):
        with pytest.raises(InvalidArgument):
            async with exchange.follow(name, limit):
                pass


async def test_an_alarm_of_the_server_stops_publishing_with_a_reason_and_not_taking(
    node: OwnNode, exchange: RabbitExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.adapters.rabbitmq_publish.PUBLISH_DEADLINE_S", 1.5)
    for i in range(2):
        await exchange.publish(Priority.HIGH, f"{i}".encode())
    async with exchange.take(Priority.HIGH, 1) as tasks:
        await asyncio.to_thread(node.control, "set_vm_memory_high_watermark", "0.00001")
        try:
            for _ in range(2):
                with pytest.raises(Unavailable, match="memory or its disk is short"):
                    await exchange.publish(Priority.HIGH, b"held")
            for i in range(2):
                task = await soon(tasks)
                assert task.body == f"{i}".encode()
                await task.done()
        finally:
            await asyncio.to_thread(node.control, "set_vm_memory_high_watermark", "absolute", "1GB")
        await until(lambda: published(exchange, b"after"))
        bodies = set()
        while b"after" not in bodies:
            task = await soon(tasks)
            bodies.add(task.body)
            await task.done()
        assert bodies <= {b"held", b"after"}


async def test_the_most_severe_of_those_that_are_here_comes_first(exchange: RabbitExchange) -> None:
    async with exchange.take(Priority.HIGH, 3) as tasks:
        await exchange.publish(Priority.HIGH, b"first")
        first = await soon(tasks)
        for severity in (1, 4):
            await exchange.publish(Priority.HIGH, f"{severity}".encode(), severity)
        await until(lambda: _arrived(tasks, 2))
        assert [(await soon(tasks)).body for _ in range(2)] == [b"4", b"1"]
        await first.done()


async def _arrived(tasks: AsyncIterator[Delivery], count: int) -> bool:
    return len(tasks._here) == count  # type: ignore[attr-defined]


async def test_foreign_tasks_and_settling_twice_do_no_harm(url: str, exchange: RabbitExchange) -> None:
    async with channel_to(url) as channel:
        properties = aiormq.spec.Basic.Properties(headers={"attempt": "many", "x-other": [1]})
        await channel.basic_publish(b"by hand", exchange="water", routing_key="low_priority_queue", properties=properties)
    async with exchange.take(Priority.LOW, 1) as tasks:
        task = await soon(tasks)
        assert (task.body, task.attempt) == (b"by hand", 1)
        for settling in (task.done(), task.done(), task.retry(0), task.bury("no")):
            await settling
        await exchange.publish(Priority.LOW, b"next")
        assert (await soon(tasks)).body == b"next"


async def test_the_password_is_in_no_log_and_no_message(node: OwnNode, url: str, caplog: pytest.LogCaptureFixture) -> None:
    said = []
    async with AsyncExitStack() as stack:
        events = stack.enter_context(structlog.testing.capture_logs())
        proxy = await stack.enter_async_context(BreakableProxy(node.port))
        proxied = node.url(vhost_of(url), proxy.port)
        exchange = await stack.enter_async_context(open_rabbitmq_exchange(proxied, CLOCK))
        logging.getLogger("aiormq").setLevel(logging.DEBUG)
        tasks = await stack.enter_async_context(exchange.take(Priority.HIGH, 1))
        await exchange.publish(Priority.HIGH, b"task")
        task = await soon(tasks)
        proxy.refuse()
        proxy.cut()
        for attempt in (exchange.publish(Priority.HIGH, b"task"), exchange.publish(Priority.HIGH, b"task"), task.done()):
            error = await outcome(attempt)
            assert error is not None
            said.append(f"{error.message} {error.__cause__!r} {error.__context__!r}")
        said.append(repr(exchange._address))
    told = "\n".join([*said, str(events), caplog.text])
    assert "RabbitMQ is away" in told
    assert node.password not in told
