"""Alerts on the page in a browser, over the real AlertService: read, acted upon by keyboard, and harmless whatever they say."""

from dataclasses import replace

from playwright.async_api import expect

from mesh.clock import SystemClock
from tests.alert.alert_serving import AlertServing, alert_serving
from tests.alert.alerting import FreshDatabase, a_task
from tests.web.chromium import SHOWN_WITHIN_MS, Seen, seeing
from water.condition import Condition, Evidence
from web_svc.wiring import serving_web

HOSTILE = '<img src=x onerror="window.__hurt = 1">'


def hostile() -> Condition:
    """A condition of which every text is markup."""
    evidence = (Evidence(1, 6.9, 7.5, 4.0, HOSTILE), Evidence(2, 23.1, 3.0, 7.7, "limit"))
    return replace(a_task().condition, site_id=HOSTILE, rule_id=HOSTILE, contaminant_type=HOSTILE, evidence=evidence)


async def _raised(service: AlertServing, seen: Seen, condition: Condition) -> int:
    """Raises an alert, waits until it is on the page, and gives its id."""
    task = a_task()
    await service.mesh.take(replace(task, condition=condition))
    await expect(seen.page.locator(".alert")).to_have_count(1, timeout=SHOWN_WITHIN_MS)
    return int(await service.mesh.one("alert_id"))


async def test_an_alert_says_what_where_why_and_since_when(fresh_database: FreshDatabase) -> None:
    async with (
        alert_serving(fresh_database) as service,
        serving_web(service.target, "127.0.0.1", 0, SystemClock()) as address,
        seeing(f"http://{address}", timezone_id="America/New_York", locale="en-GB") as seen,
    ):
        await _raised(service, seen, a_task().condition)
        card = seen.page.locator(".alert")
        for text in (
            "severity 3",
            "contamination suspected",
            "unacknowledged",
            "pH changes by 6.90 per hour, limit 7.50 per hour",
            "north",
        ):
            await expect(card).to_contain_text(text)
        assert await card.locator(".evidence li").get_attribute("title") == "rate: 4.0 times its limit"
        raised = card.locator("time").first
        assert await raised.get_attribute("title") == "2026-01-01 00:00:00.000 UTC"
        assert "31/12/2025" in await raised.inner_text()
        assert await seen.page.title() == "(1) Water Quality Mesh"
        assert "not served" in await seen.page.locator("#problems").inner_text()  # this server has alerts alone
        await seen.is_well()


async def test_each_test_says_in_its_own_words_what_the_value_was_held_against(fresh_database: FreshDatabase) -> None:
    evidence = (
        Evidence(3, 21.0, 17.0, 5.0, "novelty"),
        Evidence(4, 7.42, 10.72, 1.98, "fast change"),
        Evidence(2, 1500.0, 1000.0, 1.5, "rate"),
        Evidence(1, 9.4, 9.0, 1.04, "limit"),
    )
    async with (
        alert_serving(fresh_database) as service,
        serving_web(service.target, "127.0.0.1", 0, SystemClock()) as address,
        seeing(f"http://{address}", locale="en-GB") as seen,
    ):
        await _raised(service, seen, replace(a_task().condition, evidence=evidence))
        lines = await seen.page.locator(".alert .evidence li").all_inner_texts()
        assert lines == [
            "temperature 21.00 °C, expected 17.00 °C",
            "dissolved oxygen 7.42 mg/L, was 10.72 mg/L",
            "turbidity changes by 1,500.00 NTU per hour, limit 1,000.00 NTU per hour",
            "pH 9.40, limit 9.00",
        ]


async def test_a_contaminant_that_is_not_known_is_no_hypothesis(fresh_database: FreshDatabase) -> None:
    async with (
        alert_serving(fresh_database) as service,
        serving_web(service.target, "127.0.0.1", 0, SystemClock()) as address,
        seeing(f"http://{address}") as seen,
    ):
        await _raised(service, seen, replace(a_task().condition, contaminant_type="unknown"))
        assert await seen.page.locator(".alert .kind").inner_text() == "contamination suspected"
        known = replace(a_task().condition, contaminant_type="sewage", condition_id="another")
        await service.mesh.take(replace(a_task(), condition=known))
        await expect(seen.page.locator(".alert .kind", has_text="likely sewage")).to_have_count(1, timeout=SHOWN_WITHIN_MS)


async def test_an_alert_is_acknowledged_and_resolved_with_a_comment_by_keyboard_alone(fresh_database: FreshDatabase) -> None:
    async with (
        alert_serving(fresh_database) as service,
        serving_web(service.target, "127.0.0.1", 0, SystemClock()) as address,
        seeing(f"http://{address}") as seen,
    ):
        alert_id = await _raised(service, seen, a_task().condition)
        card, keyboard = seen.page.locator(".alert"), seen.page.keyboard
        await card.get_by_role("button", name="Acknowledge").focus()
        await keyboard.press("Enter")
        await expect(card.locator(".state")).to_have_text("acknowledged", timeout=SHOWN_WITHIN_MS)
        await expect(card.get_by_role("button", name="Acknowledge")).to_be_hidden()
        await expect(card.locator(".who")).to_contain_text("acknowledged by dashboard", timeout=SHOWN_WITHIN_MS)
        await expect(card.get_by_role("button", name="Resolve…")).to_be_focused()  # who works by keyboard stays where they are
        await card.get_by_role("button", name="Resolve…").press("Enter")
        await keyboard.press("Enter")  # without a comment nothing is sent
        assert (await service.alerts.get(alert_id)).alert.state == 2
        await keyboard.type("flushed the main")
        await keyboard.press("Enter")
        await expect(card).to_have_count(0, timeout=SHOWN_WITHIN_MS)
        await expect(seen.page.locator("#alerts-none")).to_be_visible()
        last = (await service.alerts.get(alert_id)).history[-1]
        assert (last.actor, last.comment) == ("dashboard", "flushed the main")
        await seen.is_well()


async def test_what_somebody_else_does_is_seen_and_what_is_too_late_is_said(fresh_database: FreshDatabase) -> None:
    async with (
        alert_serving(fresh_database) as service,
        serving_web(service.target, "127.0.0.1", 0, SystemClock()) as address,
        seeing(f"http://{address}") as seen,
    ):
        alert_id = await _raised(service, seen, a_task().condition)
        card = seen.page.locator(".alert")
        await card.locator("summary").click()
        await expect(card.locator(".history")).to_contain_text("system", timeout=SHOWN_WITHIN_MS)
        await service.alerts.acknowledge(alert_id, "night shift", "on my way")
        await expect(card.locator(".history")).to_contain_text("night shift: acknowledged, on my way", timeout=SHOWN_WITHIN_MS)
        too_late = f"fetch('alerts/{alert_id}/acknowledge', {{method: 'POST', headers: {{'Content-Type': 'application/json'}}}})"
        assert await seen.page.evaluate(f"{too_late}.then((answer) => answer.status)") == 409


async def test_markup_in_an_alert_and_in_comments_is_text(fresh_database: FreshDatabase) -> None:
    async with (
        alert_serving(fresh_database) as service,
        serving_web(service.target, "127.0.0.1", 0, SystemClock()) as address,
        seeing(f"http://{address}") as seen,
    ):
        alert_id = await _raised(service, seen, hostile())
        card = seen.page.locator(".alert")
        await card.locator("summary").click()
        await service.alerts.comment(alert_id, "<script>1</script>", HOSTILE)
        await expect(card.locator(".history")).to_contain_text(f"<script>1</script>: comment, {HOSTILE}", timeout=SHOWN_WITHIN_MS)
        for place in (".head", ".where", ".more"):
            await expect(card.locator(place)).to_contain_text(HOSTILE)
        assert HOSTILE in (await card.locator(".evidence li").last.get_attribute("title") or "")
        assert await seen.page.locator("main img, main script").count() == 0
        assert await seen.page.evaluate("window.__hurt") is None
        await seen.is_well()
