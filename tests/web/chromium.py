"""The page in the system's own Chromium, headless, with everything that it complains about."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import ConsoleMessage, Page, async_playwright, expect

from tests.programs import program

SHOWN_WITHIN_MS = 10_000
_LISTEN = """window.__violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.__violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));"""


@dataclass(slots=True)
class Seen:
    """A tab. `complaints`: errors and warnings of its console, and exceptions that nothing caught."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    async def is_well(self) -> None:
        """No script failed, and nothing was tried that the policy forbids."""
        assert self.complaints == []
        assert await self.page.evaluate("window.__violations") == []

    def row(self, sensor_id: int) -> Any:
        """The table's row of a sensor."""
        return self.page.locator(f'tr[data-sensor="{sensor_id}"]')

    async def shows(self, sensor_id: int, text: str) -> None:
        """Waits, at most 10 s, until the sensor's row has the text."""
        await expect(self.row(sensor_id)).to_contain_text(text, timeout=SHOWN_WITHIN_MS)


@asynccontextmanager
async def seeing(address: str, **context: Any) -> AsyncIterator[Seen]:
    """The page at this address, with options of playwright's `new_context`, for example color_scheme or viewport."""
    chromium = program("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            page = await (await browser.new_context(**context)).new_page()
            seen = Seen(page)

            def hear(message: ConsoleMessage) -> None:
                if message.type in ("error", "warning"):
                    seen.complaints.append(message.text)

            page.on("console", hear)
            page.on("pageerror", lambda error: seen.complaints.append(str(error)))
            await page.add_init_script(_LISTEN)
            await page.goto(address)
            yield seen
        finally:
            await browser.close()
