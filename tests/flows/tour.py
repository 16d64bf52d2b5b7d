"""The demo as a new user sees it: `wq up`, its page in a browser, what comes there, and what the user does about it."""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
from playwright.async_api import expect
from waterquality.v1 import alert_pb2, alert_pb2_grpc

from tests.flows.process import System, free_port
from tests.web.chromium import Seen, seeing

ALERTS_WITHIN_S = 100.0
WATCHED_FOR_S = 25.0
LOOK_EVERY_S = 0.5
BACK_WITHIN_MS = 20_000
ACTOR = "night shift"
_ALL_STATES = [state for state in alert_pb2.AlertState.values() if state]
_CARDS = "[...document.querySelectorAll('.alert button.link')].map((button) => Number(button.dataset.sensor))"
_PAINTED = "() => { const taken = window.__painted.filter(Boolean); window.__painted.length = 0; return taken; }"


@dataclass(slots=True)
class Look:
    """At one moment, seconds after the start: every alert that there ever was, and the sensors of the alerts on the page."""

    at_s: float
    alerts: list[alert_pb2.Alert]
    on_page: list[int]


@dataclass(slots=True)
class Tour:
    """What was seen. Lists of `wq` are its JSON; cards are the text of alerts on the page, by alert id."""

    first_value_s: float = float("inf")
    looks: list[Look] = field(default_factory=list)
    listed: list[dict[str, Any]] = field(default_factory=list)
    chart: str = ""
    by_page: int = 0
    by_command: int = 0
    shown: dict[int, dict[str, Any]] = field(default_factory=dict)
    cards: dict[int, str] = field(default_factory=dict)
    delays_ms: list[float] = field(default_factory=list)
    reloaded: bool = True
    complaints: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    stopped_page: str = ""
    exit_codes: list[int] = field(default_factory=list)
    listed_again: list[dict[str, Any]] = field(default_factory=list)
    cards_again: dict[int, str] = field(default_factory=dict)


async def take_tour(folder: Path) -> Tour:
    """About two minutes. Fails only where the tour cannot go on."""
    system, tour = System(folder / "data", free_port(), words=("--web-port", str(free_port()))), Tour()
    try:
        async with seeing("about:blank", viewport={"width": 1280, "height": 800}) as seen:
            await _first_run(system, seen, tour)
            tour.exit_codes.append(await system.stop())
            await expect(seen.page.locator("#state-text")).to_contain_text("trying again", timeout=BACK_WITHIN_MS)
            tour.stopped_page = await seen.page.locator("#state-text").inner_text()
            await system.start()
            await expect(seen.page.locator("#state-text")).to_have_text("live", timeout=BACK_WITHIN_MS)
            await expect(seen.page.locator(".alert .who:not(:empty)")).to_have_count(2, timeout=BACK_WITHIN_MS)
            tour.cards_again = await _cards(seen, tour.listed)
            tour.listed_again = (await _wq(system, "alerts", "ls"))["alerts"]
            tour.exit_codes.append(await system.stop())
    finally:
        system.clean_up()
    return tour


async def _first_run(system: System, seen: Seen, tour: Tour) -> None:
    began_s = monotonic()
    await system.start()
    await seen.page.goto(f"http://{json.loads((system.data / 'endpoint.json').read_text())['web']}/")
    await expect(seen.page.locator("tr[data-sensor] .value").first).not_to_be_empty(timeout=BACK_WITHIN_MS)
    tour.first_value_s = monotonic() - began_s
    await seen.page.evaluate("window.__mine = true")
    with _listing(system) as alerts:
        await _look(seen, tour, alerts, began_s, began_s + ALERTS_WITHIN_S, wanted=3)
        await _look(seen, tour, alerts, began_s, monotonic() + WATCHED_FOR_S)
    tour.listed = (await _wq(system, "alerts", "ls"))["alerts"]
    await _act(system, seen, tour)
    tour.delays_ms += await _delays_ms(seen)
    tour.reloaded = not await seen.page.evaluate("window.__mine === true")
    tour.complaints = [*seen.complaints]
    tour.violations = await seen.page.evaluate("window.__violations")


@contextmanager
def _listing(system: System) -> Iterator[alert_pb2_grpc.AlertServiceStub]:
    with grpc.insecure_channel(system.target) as channel:
        yield alert_pb2_grpc.AlertServiceStub(channel)


async def _look(
    seen: Seen, tour: Tour, service: alert_pb2_grpc.AlertServiceStub, began_s: float, until_s: float, wanted: int | None = None
) -> None:
    """Until that time, or until the page shows so many alerts."""
    request = alert_pb2.ListAlertsRequest(filter=alert_pb2.AlertFilter(states=_ALL_STATES))
    while monotonic() < until_s:
        alerts = (await asyncio.to_thread(service.ListAlerts, request, timeout=10)).alerts
        tour.looks.append(Look(monotonic() - began_s, list(alerts), await seen.page.evaluate(_CARDS)))
        tour.delays_ms += await _delays_ms(seen)
        if wanted is not None and len(tour.looks[-1].on_page) >= wanted:
            return
        await asyncio.sleep(LOOK_EVERY_S)


async def _act(system: System, seen: Seen, tour: Tour) -> None:
    """Acknowledges one alert on the page and one by command, and waits until the page shows both."""
    by_page, by_command = (int(alert["alert_id"]) for alert in tour.listed[:2])
    tour.by_page, tour.by_command = by_page, by_command
    card = seen.page.locator(".alert", has=seen.page.locator(f'button.link[data-sensor="{tour.listed[0]["sensor_id"]}"]'))
    await card.locator("button.link").click()
    await expect(seen.page.locator("#chart-said")).to_contain_text("Shown", timeout=BACK_WITHIN_MS)
    tour.chart = f"{await seen.page.locator('#chart-title').inner_text()}: {await seen.page.locator('#chart-said').inner_text()}"
    await card.get_by_role("button", name="Acknowledge").click()
    await _wq(system, "alerts", "ack", str(by_command), "--actor", ACTOR)
    await expect(seen.page.locator(".alert .who:not(:empty)")).to_have_count(2, timeout=BACK_WITHIN_MS)
    tour.cards = await _cards(seen, tour.listed)
    shown = await asyncio.gather(*(_wq(system, "alerts", "show", str(alert_id)) for alert_id in (by_page, by_command)))
    tour.shown = {int(answer["alert"]["alert_id"]): answer["alert"] for answer in shown}


async def _cards(seen: Seen, listed: list[dict[str, Any]]) -> dict[int, str]:
    ids = {int(alert["sensor_id"]): int(alert["alert_id"]) for alert in listed}
    texts = await seen.page.locator(".alert").all_inner_texts()
    return {ids.get(sensor, 0): text for sensor, text in zip(await seen.page.evaluate(_CARDS), texts, strict=True)}


async def _delays_ms(seen: Seen) -> list[float]:
    """From measured to painted, of everything since the last time."""
    return [one["painted_ms"] - one["measured_us"] / 1000 for one in await seen.page.evaluate(_PAINTED)]


async def _wq(system: System, *words: str) -> dict[str, Any]:
    """The JSON object that the command prints."""
    command = (sys.executable, "-m", "wq", *words, "--json", "--target", system.target)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    answer: dict[str, Any] = json.loads(out)
    return answer
