"""What every Exchange promises: durable tasks, the most severe first, each with one worker, none lost with its worker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from mesh.clock import ManualClock
from mesh.errors import InvalidArgument, TooLarge, Unavailable
from mesh.ports import Delivery, Exchange, Priority
from tests.contract.engines import ExchangeEngine

SHARED = [Priority.HIGH, Priority.LOW]


async def soon(tasks: AsyncIterator[Delivery]) -> Delivery:
    async with asyncio.timeout(10):
        return await anext(tasks)


async def nothing_comes(tasks: AsyncIterator[object], for_s: float = 0.8) -> bool:
    try:
        async with asyncio.timeout(for_s):
            await anext(tasks)
    except TimeoutError:
        return True
    return False


@pytest.mark.parametrize("priority", SHARED)
async def test_a_published_task_is_taken_done_and_gone(exchange: Exchange, priority: Priority) -> None:
    await exchange.publish(priority, b"task")
    async with exchange.take(priority, 1) as tasks:
        task = await soon(tasks)
        assert (task.body, task.attempt) == (b"task", 1)
        await task.done()
        assert await nothing_comes(tasks)


async def test_a_task_outlives_the_process_that_published_it(exchange_engine: ExchangeEngine) -> None:
    async with exchange_engine.open() as one:
        await one.publish(Priority.HIGH, b"task")
    async with exchange_engine.open() as two, two.take(Priority.HIGH, 1) as tasks:
        assert (await soon(tasks)).body == b"task"


async def test_the_most_severe_comes_first_and_then_the_oldest(exchange_engine: ExchangeEngine) -> None:
    order = []
    async with exchange_engine.open() as exchange:
        for i, severity in enumerate((1, 5, 0, 5, 3, 1)):
            await exchange.publish(Priority.HIGH, f"{severity}-{i}".encode(), severity)
        async with exchange.take(Priority.HIGH, 2 if exchange_engine.orders_by_severity else 1) as tasks:
            for _ in range(6):
                task = await soon(tasks)
                order.append(task.body)
                await task.done()
    by_age = [b"1-0", b"5-1", b"0-2", b"5-3", b"3-4", b"1-5"]
    assert order == ([b"5-1", b"5-3", b"3-4", b"1-0", b"1-5", b"0-2"] if exchange_engine.orders_by_severity else by_age)


async def test_priorities_are_separate_queues(exchange: Exchange) -> None:
    await exchange.publish(Priority.LOW, b"low")
    async with exchange.take(Priority.HIGH, 1) as high, exchange.take(Priority.LOW, 1) as low:
        assert await nothing_comes(high)
        assert (await soon(low)).body == b"low"


async def test_a_waiting_worker_gets_a_new_task_at_once_also_from_another_process(exchange_engine: ExchangeEngine) -> None:
    async with exchange_engine.open() as one, exchange_engine.open() as two, one.take(Priority.HIGH, 1) as tasks:
        for publisher in (one, two):
            taking = asyncio.ensure_future(soon(tasks))
            await asyncio.wait([taking], timeout=0.3)
            await publisher.publish(Priority.HIGH, b"task")
            began = asyncio.get_running_loop().time()
            await (await taking).done()
            assert asyncio.get_running_loop().time() - began < 2


async def test_no_more_than_prefetch_are_unsettled(exchange: Exchange) -> None:
    for i in range(4):
        await exchange.publish(Priority.LOW, f"{i}".encode())
    async with exchange.take(Priority.LOW, 2) as tasks:
        first, second = await soon(tasks), await soon(tasks)
        assert await nothing_comes(tasks)
        await second.done()
        assert (await soon(tasks)).body == b"2"
        await first.done()
        assert (await soon(tasks)).body == b"3"


async def test_each_task_is_with_one_worker(exchange_engine: ExchangeEngine) -> None:
    taken: list[bytes] = []
    bodies = [f"{i}".encode() for i in range(100)]
    all_taken = asyncio.Event()
    async with exchange_engine.open() as one, exchange_engine.open() as two:

        async def work(exchange: Exchange) -> None:
            async with exchange.take(Priority.LOW, 3) as tasks:
                async for task in tasks:
                    taken.append(task.body)
                    await task.done()
                    if len(taken) == len(bodies):
                        all_taken.set()

        workers = [asyncio.ensure_future(work(exchange)) for exchange in (one, one, two)]
        await asyncio.gather(*(one.publish(Priority.LOW, body) for body in bodies))
        async with asyncio.timeout(20):
            await all_taken.wait()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    assert sorted(taken) == sorted(bodies)


async def test_what_a_worker_left_unsettled_comes_to_another_however_often_and_uncounted(
    exchange_engine: ExchangeEngine,
) -> None:
    async with exchange_engine.open() as one, exchange_engine.open() as two:
        for body in (b"0", b"1"):
            await one.publish(Priority.HIGH, body)
        for _ in range(6):
            async with two.take(Priority.HIGH, 2) as tasks:
                assert [(await soon(tasks)).attempt for _ in range(2)] == [1, 1]
        async with one.take(Priority.HIGH, 2) as tasks:
            for body in (b"0", b"1"):
                task = await soon(tasks)
                assert (task.body, task.attempt) == (body, 1)
    assert await exchange_engine.dead() == []


async def test_workers_that_are_cancelled_at_any_moment_lose_no_task_and_spoil_none(exchange_engine: ExchangeEngine) -> None:
    bodies = {f"{i}".encode() for i in range(60)}
    taken: set[bytes] = set()
    async with exchange_engine.open() as exchange:

        async def leave_unsettled() -> None:
            async with exchange.take(Priority.HIGH, 50) as tasks:
                async for _ in tasks:
                    pass

        for body in bodies:
            await exchange.publish(Priority.HIGH, body)
        for life in range(12):
            worker = asyncio.ensure_future(leave_unsettled())
            await asyncio.wait([worker], timeout=0.005 * life)
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
        async with exchange.take(Priority.HIGH, 1) as tasks:
            while taken != bodies:
                task = await soon(tasks)
                assert task.body not in taken
                taken.add(task.body)
                await task.done()
    assert await exchange_engine.dead() == []


async def test_a_task_whose_workers_connection_broke_comes_again_and_the_late_done_counts_or_says_no(
    exchange_engine: ExchangeEngine,
) -> None:
    async with exchange_engine.open() as one, exchange_engine.open() as two, one.take(Priority.HIGH, 1) as tasks:
        await one.publish(Priority.HIGH, b"task")
        task = await soon(tasks)
        await exchange_engine.cut()
        async with two.take(Priority.HIGH, 1) as other:
            async with asyncio.timeout(10):
                while True:
                    try:
                        again = await anext(other)
                        break
                    except Unavailable:
                        continue
            assert (again.body, again.attempt) == (b"task", 1)
            if exchange_engine.settles_after_a_cut:
                await task.done()
                await again.retry(0)
            else:
                for settling in (task.done(), task.retry(0), task.bury("mine no longer")):
                    with pytest.raises(Unavailable, match="comes again"):
                        await settling
                await again.done()
            assert await nothing_comes(other)


async def test_a_retried_task_comes_after_its_delay_counted(exchange_engine: ExchangeEngine, clock: ManualClock) -> None:
    async with exchange_engine.open() as exchange, exchange.take(Priority.HIGH, 1) as tasks:
        await exchange.publish(Priority.HIGH, b"task")
        began = asyncio.get_running_loop().time()
        await (await soon(tasks)).retry(exchange_engine.retry_s)
        assert await nothing_comes(tasks)
        clock.advance(exchange_engine.retry_s + 1)
        task = await soon(tasks)
        assert (task.body, task.attempt) == (b"task", 2)
        if exchange_engine.has_clock_of_its_own:
            assert asyncio.get_running_loop().time() - began >= exchange_engine.retry_s


async def test_a_retried_task_holds_up_no_other_and_keeps_its_severity(
    exchange_engine: ExchangeEngine, clock: ManualClock
) -> None:
    async with exchange_engine.open() as exchange, exchange.take(Priority.HIGH, 1) as tasks:
        await exchange.publish(Priority.HIGH, b"again", 3)
        await (await soon(tasks)).retry(exchange_engine.retry_s)
        await exchange.publish(Priority.HIGH, b"other", 1)
        other = await soon(tasks)
        await exchange.publish(Priority.HIGH, b"less", 2)
        clock.advance(exchange_engine.retry_s + 1)
        if exchange_engine.has_clock_of_its_own:
            await asyncio.sleep(exchange_engine.retry_s + 1)  # not waited for: a time to pass, at the engine's clock
        await other.done()
        order = [b"again", b"less"] if exchange_engine.orders_by_severity else [b"less", b"again"]
        for body in order:
            task = await soon(tasks)
            assert task.body == body
            await task.done()


async def test_after_the_last_attempt_a_task_becomes_a_dead_letter(exchange_engine: ExchangeEngine) -> None:
    async with exchange_engine.open() as exchange, exchange.take(Priority.LOW, 1) as tasks:
        await exchange.publish(Priority.LOW, b"hopeless")
        for attempt in (1, 2, 3):
            task = await soon(tasks)
            assert task.attempt == attempt
            await task.retry(0)
        assert await nothing_comes(tasks)
    assert await exchange_engine.dead() == [(b"hopeless", "tried 3 times")]


async def test_a_task_that_kills_its_workers_becomes_a_dead_letter_where_deaths_are_counted(
    exchange_engine: ExchangeEngine,
) -> None:
    async with exchange_engine.open() as exchange, AsyncExitStack() as stack:
        await exchange.publish(Priority.LOW, b"killer")
        for _ in range(3):
            await soon(await stack.enter_async_context(exchange.take(Priority.LOW, 1)))
            await exchange_engine.cut()
        async with exchange.take(Priority.LOW, 1) as tasks:
            if exchange_engine.counts_deaths:
                assert await nothing_comes(tasks, 2)
            else:
                assert (await soon(tasks)).attempt == 1
    dead = [body for body, _ in await exchange_engine.dead()]
    assert dead == ([b"killer"] if exchange_engine.counts_deaths else [])


async def test_buried_tasks_are_kept_with_their_problem_only_the_newest(exchange_engine: ExchangeEngine) -> None:
    async with exchange_engine.open() as exchange, exchange.take(Priority.HIGH, 1) as tasks:
        for i in range(8):
            await exchange.publish(Priority.HIGH, f"{i}".encode())
            await (await soon(tasks)).bury(f"problem\0 {i}")
        assert await nothing_comes(tasks)
    assert await exchange_engine.dead() == [(f"{i}".encode(), f"problem {i}") for i in range(3, 8)]


async def test_followers_each_get_every_medium_task_from_when_they_came(exchange_engine: ExchangeEngine) -> None:
    async with exchange_engine.open() as one, exchange_engine.open() as two:
        await one.publish(Priority.MEDIUM, b"before")
        async with one.follow("a", 10) as a, two.follow("b", 10) as b:
            for i in range(3):
                await one.publish(Priority.MEDIUM, f"{i}".encode())
            for follower in (a, b):
                async with asyncio.timeout(10):
                    assert [await anext(follower) for _ in range(3)] == [b"0", b"1", b"2"]
                assert await nothing_comes(follower, 0.2)


async def test_a_slow_follower_loses_the_oldest(exchange: Exchange) -> None:
    async with exchange.follow("slow", 3) as follower:
        for i in range(10):
            await exchange.publish(Priority.MEDIUM, f"{i}".encode())
        assert [await anext(follower) for _ in range(2)] == [b"7", b"8"]
        for i in range(10, 12):
            await exchange.publish(Priority.MEDIUM, f"{i}".encode())
        assert [await anext(follower) for _ in range(3)] == [b"9", b"10", b"11"]
        assert await nothing_comes(follower, 0.2)


async def test_what_can_never_work_is_refused(exchange: Exchange) -> None:
    with pytest.raises(InvalidArgument, match="severity"):
        await exchange.publish(Priority.HIGH, b"", 6)
    with pytest.raises(TooLarge, match="at most"):
        await exchange.publish(Priority.LOW, bytes(5 * 2**20))
    with pytest.raises(InvalidArgument, match="followed"):
        async with exchange.take(Priority.MEDIUM, 1):
            pass
    with pytest.raises(InvalidArgument, match="prefetch"):
        async with exchange.take(Priority.HIGH, 0):
            pass
