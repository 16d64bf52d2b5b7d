"""Changes of alerts reach every channel: each once, in order, and whatever one channel does the others go on."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from alert_svc.deliveries import BEHIND_US, FORGOTTEN_AT_ONCE, LONGEST_RUN, Claimed, claim
from alert_svc.notify import SWEEP_EVERY_S, TRY_WITHIN_S, Patience
from alert_svc.notify_log import LogLine
from alert_svc.outbox import Notice, add
from mesh.clock import ManualClock
from mesh.shards import transaction
from tests.alert.noticing import Deaf, Heard, Office, a_notice, an_office, refusing
from tests.conftest import FreshDatabase
from tests.query.deployment import running, until

HOUR_S, DAY_S = 3600.0, 86_400.0


@pytest.fixture
async def office(fresh_database: FreshDatabase) -> AsyncIterator[Office]:
    async with an_office(fresh_database) as made:
        yield made


async def test_every_change_reaches_every_channel_once_and_in_order(office: Office) -> None:
    one, other = Heard("one"), Heard("other", at_once=2)
    wanted = [(alert, change) for alert in range(1, 21) for change in (1, 2, 3)]
    await office.put(*(a_notice(*this) for this in wanted))
    worker = office.worker(one, other)
    async with running(worker.run):
        await until(lambda: office.all_ended(2 * len(wanted)))
    for channel in (one, other):
        assert sorted(channel.heard) == wanted
        assert all(channel.heard.index((alert, 1)) < channel.heard.index((alert, 2)) for alert in range(1, 21))
        assert all(channel.heard.index((alert, 2)) < channel.heard.index((alert, 3)) for alert in range(1, 21))


async def test_a_change_that_was_rolled_back_is_told_to_nobody(office: Office) -> None:
    heard = Heard()
    with suppress(RuntimeError):
        async with transaction(office.engine) as connection:
            await add(connection, [a_notice(1)])
            raise RuntimeError
    await office.put(a_notice(2), a_notice(2, summary="put twice"))
    await office.put(a_notice(2, summary="put again"))
    async with running(office.worker(heard).run):
        await until(lambda: office.all_ended(1))
    assert heard.heard == [(2, 1)]


async def test_a_channel_that_hangs_holds_up_no_other(office: Office) -> None:
    deaf, heard = Deaf(), Heard()
    await office.put(*(a_notice(alert) for alert in range(1, 30)))
    async with running(office.worker(deaf, heard).run):
        await until(lambda: _has(heard, 29))
        await office.put(a_notice(30))
        await until(lambda: _has(heard, 30))
    assert deaf.tried == deaf.at_once


async def test_an_alert_that_fails_holds_up_only_its_own_later_changes(office: Office) -> None:
    heard = Heard(failing={7: refusing()})
    await office.put(a_notice(7, 1), a_notice(7, 2), a_notice(8, 1), a_notice(8, 2))
    async with running(office.worker(heard).run):
        await until(lambda: _has(heard, 2))
        await until(lambda: _tried(heard, (7, 1), 3))
        assert (7, 2) not in heard.tried
        heard.failing.clear()
        await until(lambda: office.all_ended(4))
    assert heard.heard[-2:] == [(7, 1), (7, 2)]


async def test_a_failure_in_the_middle_of_a_run_stops_the_rest_of_it_and_costs_them_no_try(office: Office) -> None:
    heard = Heard(refused={(7, 3): refusing()})
    await office.put(*(a_notice(7, change) for change in range(1, LONGEST_RUN + 4)))
    async with running(office.worker(heard).run):
        await until(lambda: _tried(heard, (7, 3), 3))
        assert heard.heard == [(7, 1), (7, 2)]
        waiting = "SELECT max(tries) FROM alert.deliveries WHERE change > 3"
        await until(lambda: _is(office, waiting, 0))
        heard.refused.clear()
        await until(lambda: office.all_ended(LONGEST_RUN + 3))
    assert heard.heard == [(7, change) for change in range(1, LONGEST_RUN + 4)]
    assert heard.unsure == []


async def test_a_run_that_would_outlast_its_claim_is_broken_off_and_taken_up_again(office: Office, clock: ManualClock) -> None:
    heard = Heard(before=lambda: clock.advance(TRY_WITHIN_S / 2))
    await office.put(*(a_notice(7, change) for change in range(1, 10)))
    async with running(office.worker(heard, clock=clock).run):
        await until(lambda: office.all_ended(9))
    assert heard.heard == [(7, change) for change in range(1, 10)]
    assert heard.unsure == []
    assert await office.rows("SELECT DISTINCT tries FROM alert.deliveries") == [(1,)]


async def test_many_changes_of_few_alerts_take_few_turns(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0

    async def counted(*given: Any) -> list[Claimed]:
        nonlocal turns
        turns += 1
        return await claim(*given)

    monkeypatch.setattr("alert_svc.notify.claim", counted)
    wanted = [(alert, change) for alert in (1, 2) for change in range(1, 10 * LONGEST_RUN + 1)]
    await office.put(*(a_notice(*this) for this in wanted))
    heard = Heard()
    async with running(office.worker(heard).run):
        await until(lambda: office.all_ended(len(wanted)))
    assert [this for this in heard.heard if this[0] == 1] + [this for this in heard.heard if this[0] == 2] == wanted
    assert turns < len(wanted) / 4


async def test_a_very_long_queue_of_one_alert_holds_up_no_other(office: Office) -> None:
    body = f"'\\x{a_notice(1).body.hex()}'"
    await office.rows(
        f"WITH old AS (INSERT INTO alert.outbox (alert_id, change, body, opened_us) SELECT 1, n, {body}, 1 "
        "FROM generate_series(1, 20000) n RETURNING notice_id, change) "
        "INSERT INTO alert.deliveries (notice_id, channel, alert_id, change, next_us) "
        f"SELECT notice_id, 'heard', 1, change, CASE change WHEN 1 THEN 0 ELSE {BEHIND_US} END FROM old RETURNING 1"
    )
    async with transaction(office.engine) as connection:
        await connection.exec_driver_sql("ANALYZE alert.deliveries")
    heard = Heard()
    async with running(office.worker(heard).run):
        await office.put(a_notice(2), a_notice(1, 20_001))
        await until(lambda: _tried(heard, (2, 1), 1))
        await until(lambda: _has(heard, 10 * LONGEST_RUN))
    first = [change for alert, change in heard.heard if alert == 1]
    assert first == list(range(1, len(first) + 1))


async def test_a_channel_that_crashes_is_tried_again_and_stops_nothing(office: Office) -> None:
    heard = Heard(failing={1: ZeroDivisionError("a defect")})
    await office.put(a_notice(1), a_notice(2))
    with capture_logs() as lines:
        async with running(office.worker(heard).run):
            await until(lambda: _has(heard, 1))
            heard.failing.clear()
            await until(lambda: office.all_ended(2))
    assert [line["event"] for line in lines][:1] == ["a channel crashed, the notification is tried again"]


async def test_a_notice_that_cannot_be_read_is_given_up_and_said(office: Office) -> None:
    heard = Heard()
    await office.put(Notice(1, 1, b"\xff\xff"), a_notice(1, 2))
    with capture_logs() as lines:
        async with running(office.worker(heard).run):
            await until(lambda: office.all_ended(2))
    assert await office.statuses("heard") == {(1, 1): "given_up", (1, 2): "delivered"}
    assert [line for line in lines if line["event"] == "a notification was given up" and "Alert" in line["problem"]]


async def test_what_never_gets_through_is_given_up_visibly_and_later_changes_go_on(office: Office, clock: ManualClock) -> None:
    heard = Heard(failing={1: refusing("the wire is cut")})
    await office.put(a_notice(1, 1))

    async def given_up_as_hours_pass() -> bool:
        clock.advance(HOUR_S)
        return await office.all_ended(1)

    worker = office.worker(heard, clock=clock, patience=Patience(first_s=60, longest_s=3600))
    with capture_logs() as lines:
        async with running(worker.run):
            await until(lambda: _tried(heard, (1, 1), 1))
            await until(given_up_as_hours_pass)
            await office.put(a_notice(1, 2))
            heard.failing.clear()
            await until(lambda: office.all_ended(2))
    assert await office.statuses("heard") == {(1, 1): "given_up", (1, 2): "delivered"}
    said = [line["event"] for line in lines]
    assert said == [
        "notifications do not get through, they are tried again",
        "a notification was given up",
        "notifications get through again",
    ]
    assert await office.rows("SELECT problem FROM alert.deliveries WHERE status = 'given_up'") == [("the wire is cut",)]


async def test_a_delivery_is_tried_so_often_and_not_more(office: Office) -> None:
    heard = Heard(failing={1: refusing()})
    await office.put(a_notice(1))
    async with running(office.worker(heard, patience=Patience(first_s=0.001, longest_s=0.01, tries=4)).run):
        await until(lambda: office.all_ended(1))
    assert (heard.tried, await office.statuses("heard")) == ([(1, 1)] * 4, {(1, 1): "given_up"})


async def test_pauses_grow_and_the_other_side_may_ask_for_longer_ones_within_limits(office: Office, clock: ManualClock) -> None:
    heard = Heard(failing={1: refusing(retry_after_s=900), 2: refusing(retry_after_s=1e9), 3: refusing()})
    await office.put(*(a_notice(alert) for alert in (1, 2, 3)))
    start_us = clock.now_us()
    async with running(office.worker(heard, clock=clock, patience=Patience(first_s=10, longest_s=3600)).run):
        await until(lambda: _waiting(office, 3))
        rows = await office.rows("SELECT alert_id, next_us FROM alert.deliveries ORDER BY alert_id")
    assert [rows[0][1] - start_us, rows[1][1] - start_us] == [900_000_000, 3_600_000_000]
    assert 5_000_000 <= rows[2][1] - start_us <= 15_000_000


async def test_what_ended_long_ago_is_forgotten_in_pieces_and_what_waits_is_not(office: Office, clock: ManualClock) -> None:
    await office.put(a_notice(1))
    async with running(office.worker(Heard(failing={1: refusing()}), clock=clock).run):
        await until(lambda: _waiting(office, 1))
    await office.rows(
        f"WITH old AS (INSERT INTO alert.outbox (alert_id, change, body, opened_us) SELECT n, 1, '', 1 "
        f"FROM generate_series(100, 99 + {FORGOTTEN_AT_ONCE * 2}) n RETURNING notice_id, alert_id) "
        "INSERT INTO alert.deliveries (notice_id, channel, alert_id, change, status, next_us, ended_us) "
        "SELECT notice_id, 'heard', alert_id, 1, 'delivered', 0, 1 FROM old RETURNING 1"
    )
    clock.advance(SWEEP_EVERY_S)
    async with running(office.worker(Heard(failing={1: refusing()}), clock=clock).run):
        await until(lambda: _is(office, "SELECT count(*) FROM alert.outbox", 1))
    assert set(await office.statuses("heard")) == {(1, 1)}


async def test_a_channel_that_is_no_longer_configured_is_given_up_in_the_end(office: Office, clock: ManualClock) -> None:
    await office.put(a_notice(1))
    async with running(office.worker(Heard("gone", failing={1: refusing()}), Heard(), clock=clock).run):
        await until(lambda: _waiting(office, 1))
    clock.advance(7 * DAY_S)
    async with running(office.worker(Heard(), clock=clock).run):
        await until(lambda: office.all_ended(2))
    assert await office.statuses("gone") == {(1, 1): "given_up"}


async def test_the_log_has_one_line_for_each_change_with_all_that_matters(office: Office) -> None:
    await office.put(a_notice(5, 1, "pH 4.1\n\x1b[31mfake"), a_notice(5, 2), a_notice(5, 3), a_notice(5, 4))
    with capture_logs() as lines:
        async with running(office.worker(LogLine()).run):
            await until(lambda: office.all_ended(4))
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("alert raised", "warning"),
        ("alert acknowledged", "info"),
        ("alert resolved", "info"),
        ("alert commented", "info"),
    ]
    first = {key: value for key, value in lines[0].items() if key not in ("event", "log_level")}
    assert first == {
        "alert": 5,
        "change": 1,
        "state": "UNACKNOWLEDGED",
        "severity": 4,
        "kind": "LIMIT",
        "sensor": 4711,
        "site": "weir-1",
        "actor": "ines",
        "summary": "pH 4.1\ufffd\ufffd[31mfake",
    }


async def _has(heard: Heard, count: int) -> bool:
    return len(heard.heard) >= count


async def _tried(heard: Heard, this: tuple[int, int], count: int) -> bool:
    return heard.tried.count(this) >= count


async def _is(office: Office, statement: str, value: int) -> bool:
    return await office.rows(statement) == [(value,)]


async def _waiting(office: Office, count: int) -> bool:
    statement = "SELECT count(*) FROM alert.deliveries WHERE status = 'waiting' AND tries > 0 AND claim IS NULL"
    return await _is(office, statement, count)
