"""Whatever happens to a worker or its database, every notice is delivered and none that was delivered is sent again."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from alert_svc.deliveries import claim, hand_out
from alert_svc.notify import CLAIMED_S, Notify
from alert_svc.notify_log import LogLine
from alert_svc.webhook import Webhook
from alert_svc.webhook_address import PinnedConnections
from mesh.clock import ManualClock, SystemClock
from mesh.run import Worker, keep_running
from mesh.shards import transaction
from mesh.stages import Progress
from tests.alert.noticing import QUICK, Heard, Office, a_notice, an_office, breakable
from tests.alert.receiver import SECRET, Receiver, answering, cutting, receiving
from tests.conftest import FreshDatabase
from tests.query.deployment import end, running, until

COUNT = 60
CUTS = 8
WANTED = [(alert, change) for alert in range(1, COUNT // 2 + 1) for change in (1, 2)]


@pytest.fixture
async def office(fresh_database: FreshDatabase) -> AsyncIterator[Office]:
    async with an_office(fresh_database) as made:
        yield made


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


def a_webhook(receiver: Receiver) -> Webhook:
    return Webhook(receiver.url, SECRET, SystemClock(), PinnedConnections(private=True))


def said(lines: Sequence[Mapping[str, Any]]) -> Counter[tuple[int, int]]:
    """How often the log has told of each change."""
    return Counter((line["alert"], line["change"]) for line in lines if str(line["event"]).startswith("alert "))


@pytest.mark.parametrize("seed", range(3))
async def test_cancelled_at_any_moment_and_started_again_all_is_delivered_and_nothing_twice(
    office: Office, receiver: Receiver, seed: int
) -> None:
    chance = random.Random(seed)
    await office.put(*(a_notice(*this) for this in WANTED))
    lives = 0
    with capture_logs() as lines:
        while not await office.all_ended(2 * COUNT):
            lives += 1
            task = asyncio.create_task(office.worker(LogLine(), a_webhook(receiver)).run())
            await asyncio.wait({task}, timeout=chance.random() * (0.1 + 0.02 * lives))
            await end(task)
    assert said(lines) == Counter(WANTED)
    assert not [line for line in lines if "maybe_repeated" in line]
    _nothing_lost(receiver)


async def test_two_workers_share_the_work_and_send_nothing_twice(office: Office, receiver: Receiver) -> None:
    receiver.answers = [answering(500), answering(503), cutting]
    one, other = Heard(at_once=1), Heard(at_once=1)
    workers = [office.worker(LogLine(), a_webhook(receiver), heard, name=f"w{id(heard)}") for heard in (one, other)]
    await office.put(*(a_notice(*this) for this in WANTED[: COUNT // 2]))
    with capture_logs() as lines:
        async with running(*(worker.run for worker in workers)):
            await office.put(*(a_notice(*this) for this in WANTED[COUNT // 2 :]))
            await until(lambda: office.all_ended(3 * COUNT))
    assert said(lines) == Counter(WANTED)
    assert sorted(one.heard + other.heard) == WANTED
    assert one.heard
    assert other.heard
    assert len(receiver.received) == COUNT + 3
    _nothing_lost(receiver)


async def test_a_new_life_takes_over_at_once_and_says_that_it_may_repeat(office: Office) -> None:
    await office.put(a_notice(1), a_notice(2))
    await _claim_as("w", office, 1)
    heard = Heard()
    with capture_logs() as lines:
        async with running(office.worker(LogLine(), heard, name="w").run):
            await until(lambda: office.all_ended(4))
    assert said(lines) == Counter({(1, 1): 1, (2, 1): 1})
    assert [line["alert"] for line in lines if "maybe_repeated" in line] == [1]
    assert heard.unsure == [(1, 1)]


async def test_the_claim_of_another_worker_is_left_alone_until_it_ends(office: Office, clock: ManualClock) -> None:
    await office.put(a_notice(1), a_notice(2))
    await _claim_as("dead", office, 1, clock.now_us())
    heard = Heard()
    async with running(office.worker(heard, clock=clock, name="alive").run):
        await until(lambda: _heard(heard, 1))
        clock.advance(CLAIMED_S - 1)
        await office.put(a_notice(3))
        await until(lambda: _heard(heard, 2))
        assert (1, 1) not in heard.tried
        clock.advance(1)
        await until(lambda: _heard(heard, 3))
    assert heard.unsure == [(1, 1)]


async def test_a_database_that_is_cut_repeats_nothing(office: Office, receiver: Receiver) -> None:
    async with breakable(office.engine) as (proxy, engine):
        progress, chance = Progress("notify"), random.Random(5)
        notify = Notify(engine, [LogLine(), a_webhook(receiver)], progress, SystemClock(), chance, "w", QUICK)

        async def all_ended_after_cuts() -> bool:
            if proxy.accepted_count < CUTS:
                proxy.cut_after(chance.randrange(100, 8000))
            return await office.all_ended(2 * COUNT)

        with capture_logs() as lines:
            async with running(lambda: keep_running(Worker(progress, notify.run), SystemClock(), chance)):
                await office.put(*(a_notice(*this) for this in WANTED))
                await until(all_ended_after_cuts)
        assert proxy.accepted_count > 1
    assert said(lines) == Counter(WANTED)
    assert len(receiver.received) == COUNT
    _nothing_lost(receiver)


async def test_a_database_that_is_away_is_said_and_does_not_stop_what_is_under_way(office: Office) -> None:
    async with breakable(office.engine) as (proxy, engine):
        heard, progress = Heard(), Progress("notify")
        notify = Notify(engine, [heard], progress, SystemClock(), random.Random(), "w", QUICK)
        async with running(notify.run):
            await office.put(a_notice(1))
            await until(lambda: office.all_ended(1))
            proxy.refuse()
            proxy.cut()
            await until(lambda: _problem(progress, "away"))
            await office.put(a_notice(2))
            proxy.refuse(False)
            await until(lambda: office.all_ended(2))
            await until(lambda: _problem(progress, ""))
    assert heard.tried == [(1, 1), (2, 1)]


async def _claim_as(worker: str, office: Office, count: int, now_us: int | None = None) -> None:
    """What a worker leaves that was killed while it delivered."""
    now_us = SystemClock().now_us() if now_us is None else now_us
    async with transaction(office.engine) as connection:
        await hand_out(connection, ["log", "heard"], now_us)
        for channel in ("log", "heard"):
            assert await claim(connection, channel, count, worker, "killed", now_us, now_us + round(CLAIMED_S * 1e6))


def _nothing_lost(receiver: Receiver) -> None:
    """Every change arrived, under an id and with a body of its own, in its alert's order; repeats have both unchanged."""
    changes: dict[str, set[tuple[bytes, tuple[int, int]]]] = {}
    for received in receiver.received:
        data = received.content["data"]
        changes.setdefault(received.message_id, set()).add((received.body, (int(data["alert_id"]), len(data["history"]))))
    assert all(len(seen) == 1 for seen in changes.values())
    firsts = [this for seen in changes.values() for _, this in seen]
    assert sorted(firsts) == WANTED
    assert all(firsts.index((alert, 1)) < firsts.index((alert, 2)) for alert in range(1, COUNT // 2 + 1))


async def _heard(heard: Heard, count: int) -> bool:
    return len(heard.heard) >= count


async def _problem(progress: Progress, part: str) -> bool:
    return part in progress.problem and bool(part) == bool(progress.problem)
