"""The commands `wq alerts ...` against a real server: what they show, what --json means, what they refuse."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from alert_svc.watcher import Watcher
from mesh.codec.alerts import Alert
from tests.alert.alert_serving import AlertServing, alert_serving
from tests.alert.alerting import FreshDatabase, a_task
from water.condition import Change
from wq.alerts import alerts

RAISED, UPDATED, CLEARED = Change


@pytest.fixture
async def served(fresh_database: FreshDatabase) -> AsyncIterator[AlertServing]:
    async with alert_serving(fresh_database) as made:
        yield made


async def run(served: AlertServing, *words: str, user: str = "maria") -> Result:
    """As a person would; the server goes on meanwhile."""
    environment = {"COLUMNS": "200", "NO_COLOR": "1", "WQ_TARGET": served.target, "USER": user}
    return await asyncio.to_thread(CliRunner(env=environment).invoke, alerts, list(words))


def content(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


async def test_the_open_alerts_are_listed_and_all_when_asked(served: AlertServing) -> None:
    await served.mesh.take(
        a_task(condition_id="a", severity=5), a_task(condition_id="b"), a_task(began=5, condition_id="c", historical=True)
    )
    await served.alerts.resolve(2, "maria", "a test")
    shown = (await run(served, "ls")).stdout
    assert "Contamination suspected at sensor 7 (site plant-1)" in shown
    assert "unacknowledged" in shown
    assert (await run(served)).stdout == shown
    assert [alert["alert_id"] for alert in content(await run(served, "ls", "--json"))["alerts"]] == [1]
    everything = content(await run(served, "ls", "--all", "--json"))["alerts"]
    assert {alert["alert_id"]: alert["state"] for alert in everything} == {
        1: "ALERT_STATE_UNACKNOWLEDGED",
        2: "ALERT_STATE_RESOLVED",
        3: "ALERT_STATE_RESOLVED",
    }
    assert "(history)" in (await run(served, "ls", "--state", "resolved")).stdout


async def test_a_list_is_of_what_was_asked_for(served: AlertServing) -> None:
    await served.mesh.take(*(a_task(condition_id=f"c/{number}", severity=number, sensor_id=number) for number in range(1, 6)))
    words = (
        "--region",
        "north",
        "--site",
        "plant-1",
        "--kind",
        "contamination",
        "--min-severity",
        "3",
        "--sensor",
        "4",
        "--sensor",
        "2",
    )
    found = content(await run(served, "ls", *words, "--json"))["alerts"]
    assert [alert["sensor_id"] for alert in found] == [4]
    assert (await run(served, "ls", "--region", "south")).stdout.strip() == "no open alerts"
    limited = content(await run(served, "ls", "--limit", "2", "--json"))
    assert (len(limited["alerts"]), bool(limited["next_page_token"])) == (2, True)


async def test_an_alert_is_shown_with_its_evidence_and_history(served: AlertServing) -> None:
    await served.mesh.take(a_task(), a_task(CLEARED, 0, 5))
    shown = (await run(served, "show", "1")).stdout
    for words in (
        "returned unacknowledged",
        "two-rates",
        "2026-01-01T00:05:00Z",
        "rate",
        "7.50",
        "over since 2026-01-01 00:05:00 UTC",
    ):
        assert words in shown
    assert content(await run(served, "show", "1", "--json"))["alert"]["evidence"][0]["value"] == 6.9


async def test_people_acknowledge_comment_and_resolve_in_their_own_name(served: AlertServing) -> None:
    await served.mesh.take(a_task())
    assert "acknowledged" in (await run(served, "ack", "1", "--comment", "coming")).stdout
    await run(served, "comment", "1", "smells of chlorine", "--actor", "paul")
    over = content(await run(served, "resolve", "1", "--comment", "flushed", "--json", user=""))["alert"]
    assert [step["actor"] for step in over["history"]] == ["system", "maria", "paul", "anonymous"]
    again = await run(served, "ack", "1")
    assert again.exit_code == 1
    assert "alert 1 is RESOLVED" in again.stderr


async def test_what_makes_no_sense_is_refused(served: AlertServing) -> None:
    assert (await run(served, "show", "99")).exit_code == 1
    for words in (
        ("resolve", "1"),
        ("ls", "--state", "angry"),
        ("ack", "one"),
        ("ack", "1", "--actor", "märia"),
        ("ack", "1", "--actor", ""),
    ):
        assert (await run(served, *words)).exit_code == 2, words


async def test_watching_with_json_prints_an_object_for_each_change(served: AlertServing) -> None:
    await served.mesh.take(a_task())
    result = await watched(served, "--watch", "ls", "--json")
    lines = [json.loads(line)["alert"] for line in result.stdout.splitlines()]
    assert [line["state"] for line in lines] == ["ALERT_STATE_UNACKNOWLEDGED", "ALERT_STATE_ACKNOWLEDGED"]


async def test_watching_where_nothing_can_move_prints_a_line_for_each_change(served: AlertServing) -> None:
    await served.mesh.take(a_task())
    result = await watched(served, "ls", "--watch")
    assert [line.split("  ")[:2] for line in result.stdout.splitlines()] == [["1", "unacknowledged"], ["1", "acknowledged"]]
    assert result.exit_code == 1
    assert "the server stops" in result.stderr


async def watched(served: AlertServing, *words: str) -> Result:
    """What is printed until the server stops, which is after it was told of the first alert and that somebody acknowledged it."""
    told: asyncio.Queue[int] = asyncio.Queue()
    fresh = Watcher.fresh

    def counted(watcher: Watcher, alerts: Iterable[Alert]) -> list[Alert]:
        found = fresh(watcher, alerts)
        for alert in found:
            told.put_nowait(alert.alert_id)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watcher, "fresh", counted)
        watching = asyncio.create_task(run(served, *words))
        async with asyncio.timeout(30):
            await told.get()
            await served.alerts.acknowledge(1, "maria", "")
            await told.get()
        served.watch.close()
        return await watching
