"""Nothing confirmed is lost, and everything goes on by itself, when RabbitMQ is killed, paused, cut off or flooded."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from statistics import median

import pytest

from mesh.adapters import rabbitmq_session
from mesh.adapters.rabbitmq import RabbitExchange, open_rabbitmq_exchange
from mesh.clock import SystemClock
from mesh.errors import Unavailable
from mesh.ports import Delivery, Exchange, Priority
from tests.adapters.rabbitmq_node import OwnNode, own_node
from tests.proxy import BreakableProxy

CLOCK = SystemClock()
PATIENCE_S = 60.0
RECOVERY_S = 30.0
PUBLISHERS = 16
FLOOD = 200


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


class Traffic:
    """Publishes and takes all the time, each task told from every other. `offered` MAY be in the queue, `confirmed` must be
    taken; whoever meets Unavailable tries again, as the services do."""

    def __init__(self, exchange: Exchange, priority: Priority = Priority.HIGH, padding: int = 100) -> None:
        self._exchange = exchange
        self._priority = priority
        self._padding = bytes(padding)
        self.offered = 0
        self.confirmed: set[int] = set()
        self.taken: Counter[int] = Counter()
        self.refused = 0
        self._is_publishing = True

    @asynccontextmanager
    async def flowing(self, publishers: int = PUBLISHERS) -> AsyncIterator[None]:
        """Inside the block. After it everything confirmed was taken."""
        async with asyncio.TaskGroup() as group:
            publishing = [group.create_task(self._publish()) for _ in range(publishers)]
            taking = group.create_task(self._take())
            yield
            self._is_publishing = False
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*publishing)
                await self.until(lambda: self.confirmed <= self.taken.keys())
            taking.cancel()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():  # noqa: ASYNC110 - what is waited for is the work of all others here
                await asyncio.sleep(0.01)

    async def goes_on(self, count: int = 200) -> float:
        """Seconds until that many more were confirmed and taken."""
        began = asyncio.get_running_loop().time()
        confirmed, taken = len(self.confirmed) + count, len(self.taken) + count
        await self.until(lambda: len(self.confirmed) >= confirmed and len(self.taken) >= taken)
        return asyncio.get_running_loop().time() - began

    async def _publish(self) -> None:
        while self._is_publishing:
            number = self.offered
            self.offered += 1
            try:
                await self._exchange.publish(self._priority, number.to_bytes(8, "big") + self._padding)
            except Unavailable:
                self.refused += 1
            else:
                self.confirmed.add(number)

    async def _take(self) -> None:
        async with self._exchange.take(self._priority, 50) as tasks:
            while True:
                with suppress(Unavailable):
                    async for task in tasks:
                        self.taken[int.from_bytes(task.body[:8], "big")] += 1
                        await task.done()


def check(traffic: Traffic) -> None:
    """Nothing invented, nothing confirmed lost."""
    assert traffic.confirmed
    assert max(traffic.taken) < traffic.offered
    assert not traffic.confirmed - traffic.taken.keys()


async def test_killed_and_restarted_nothing_confirmed_is_lost_and_all_goes_on(node: OwnNode, exchange: RabbitExchange) -> None:
    traffic = Traffic(exchange)
    async with traffic.flowing():
        for _ in range(2):
            await traffic.goes_on()
            await node.restart_killed()
            assert await traffic.goes_on() < RECOVERY_S
    assert traffic.refused
    check(traffic)


async def test_what_waits_to_be_tried_again_outlives_a_kill(node: OwnNode, exchange: RabbitExchange) -> None:
    bodies = {f"{i}".encode() for i in range(20)}
    async with exchange.take(Priority.HIGH, 20) as tasks:
        for body in bodies:
            await exchange.publish(Priority.HIGH, body, 2)
        for _ in bodies:
            await (await soon(tasks)).retry(2)
        await node.restart_killed()
        found: set[bytes] = set()
        while found != bodies:
            task = await soon(tasks)
            if task.attempt == 2:
                found.add(task.body)
            await task.done()


async def soon(tasks: AsyncIterator[Delivery]) -> Delivery:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(Unavailable):
                return await anext(tasks)


async def test_a_short_pause_and_a_long_one_refuse_in_time_and_lose_nothing(
    node: OwnNode, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.adapters.rabbitmq_publish.PUBLISH_DEADLINE_S", 2.0)
    monkeypatch.setattr(rabbitmq_session, "HEARTBEAT_S", 1)
    async with open_rabbitmq_exchange(url, CLOCK) as exchange:
        traffic = Traffic(exchange)
        async with traffic.flowing():
            for pause_s in (1.0, 12.0):
                await traffic.goes_on()
                refused = traffic.refused
                await node.pause()
                await asyncio.sleep(pause_s)  # not waited for: the pause is the fault
                assert (traffic.refused > refused) == (pause_s > 2)
                await node.resume()
                assert await traffic.goes_on() < RECOVERY_S
    check(traffic)


async def test_cut_at_any_byte_and_refused_for_a_while_nothing_confirmed_is_lost(node: OwnNode, url: str) -> None:
    async with BreakableProxy(node.port) as proxy:
        proxied = url.replace(str(node.port), str(proxy.port))
        async with open_rabbitmq_exchange(proxied, CLOCK) as exchange:
            traffic = Traffic(exchange)
            async with traffic.flowing():
                for i in range(8):
                    await traffic.goes_on(50)
                    proxy.cut_after(7919 * i)
                    await traffic.until(lambda refused=traffic.refused: traffic.refused > refused)  # type: ignore[misc]
                proxy.refuse()
                proxy.cut()
                await traffic.until(lambda refused=traffic.refused: traffic.refused > refused + PUBLISHERS)  # type: ignore[misc]
                proxy.refuse(False)
                assert await traffic.goes_on() < RECOVERY_S
    check(traffic)


async def test_half_open_connections_are_found_and_opened_again(node: OwnNode, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.adapters.rabbitmq_publish.PUBLISH_DEADLINE_S", 2.0)
    monkeypatch.setattr(rabbitmq_session, "HEARTBEAT_S", 1)
    async with BreakableProxy(node.port) as proxy:
        proxied = url.replace(str(node.port), str(proxy.port))
        async with open_rabbitmq_exchange(proxied, CLOCK) as exchange, exchange.take(Priority.HIGH, 1) as tasks:
            await exchange.publish(Priority.HIGH, b"before")
            await (await soon(tasks)).done()
            proxy.pause()
            for attempt in (anext(tasks), exchange.publish(Priority.HIGH, b"lost")):
                async with asyncio.timeout(20):
                    with pytest.raises(Unavailable):
                        await attempt
            proxy.resume()
            async with open_rabbitmq_exchange(url, CLOCK) as other:
                await other.publish(Priority.HIGH, b"after")
            while (task := await soon(tasks)).body != b"after":
                await task.done()
            await task.done()
            await exchange.publish(Priority.HIGH, b"ours")
            assert (await soon(tasks)).body == b"ours"


async def test_a_follower_follows_again_after_a_kill(node: OwnNode, exchange: RabbitExchange) -> None:
    async with exchange.follow("board", 5) as board:
        await exchange.publish(Priority.MEDIUM, b"before")
        assert await anext(board) == b"before"
        await node.restart_killed()
        seen = asyncio.ensure_future(next_of(board))
        while not seen.done():
            with suppress(Unavailable):
                await exchange.publish(Priority.MEDIUM, b"after")
            await asyncio.wait([seen], timeout=0.1)
        assert seen.result() == b"after"


async def next_of(board: AsyncIterator[bytes]) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(Unavailable):
                return await anext(board)


async def test_high_is_not_held_up_by_a_flood_of_low(exchange: RabbitExchange) -> None:
    flood = Traffic(exchange, Priority.LOW, 10_000)
    async with exchange.take(Priority.HIGH, 8) as tasks:
        await latencies(exchange, tasks, 20)
        alone = await latencies(exchange, tasks, 100)
        async with flood.flowing(FLOOD):
            await flood.goes_on(500)
            began, before = asyncio.get_running_loop().time(), len(flood.confirmed)
            beside = await latencies(exchange, tasks, 100)
            rate = (len(flood.confirmed) - before) / (asyncio.get_running_loop().time() - began)
    each_s = FLOOD / rate  # what a LOW takes, with so many at a time
    assert median(beside) < each_s / 5, f"HIGH alone {told(alone)}; beside {rate:.0f} LOW/s, {each_s:.3f} s each: {told(beside)}"


async def latencies(exchange: Exchange, tasks: AsyncIterator[Delivery], count: int) -> list[float]:
    """Seconds from the call of publish to the task's arrival, one after the other."""
    found = []
    for i in range(count):
        began = asyncio.get_running_loop().time()
        publishing = asyncio.ensure_future(exchange.publish(Priority.HIGH, b"%d" % i, 3))
        task = await soon(tasks)
        found.append(asyncio.get_running_loop().time() - began)
        await publishing
        await task.done()
    return found


def told(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    return f"p50 {median(ordered) * 1000:.1f} ms, p99 {ordered[int(len(ordered) * 0.99)] * 1000:.1f} ms"
