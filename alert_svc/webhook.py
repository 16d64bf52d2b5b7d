"""The webhook channel: each change of an alert as a signed POST after Standard Webhooks 1.0 (standardwebhooks.com)."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpx
import standardwebhooks

from alert_svc.channel import Delivery, NotDelivered
from alert_svc.webhook_address import PinnedConnections
from alert_svc.webhook_checks import check_webhook
from mesh.clock import SystemClock
from mesh.errors import SetupError
from mesh.ports import Clock
from mesh.settings import Settings

AT_ONCE = 8
CONNECT_WITHIN_S = 5.0
ANSWER_WITHIN_S = 20.0  # Standard Webhooks: somewhere between 15 and 30 s
BODY_WITHIN_S = 1.0
MOST_ANSWER_BYTES = 2048
_PHRASES = {int(status): status.phrase for status in HTTPStatus}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def webhooks(settings: Settings, clock: Clock | None = None) -> list["Webhook"]:
    """The webhook that is configured, or none. Raises SetupError that lists every problem."""
    if problems := check_webhook(settings):
        raise SetupError("webhook: " + "; ".join(problems))
    if not settings.webhook_url:
        return []
    secret = settings.webhook_secret.get_secret_value()
    return [Webhook(settings.webhook_url, secret, clock or SystemClock(), PinnedConnections(settings.webhook_private))]


class Webhook:
    """Posts {"type": "alert.<change>", "timestamp": when it happened, "data": the alert}. The receiver knows a repeat by the
    header webhook-id, which is the same at every try, as the body is.

    Delivered is what was answered by 2xx, as soon as that is known. Everything else is tried again, also a 4xx: an address or a
    password that is wrong for an hour must not cost an alarm. A redirect is not followed. 410 Gone says that nobody wants this
    one any more: it is given up, while later changes are still tried once each, so that an address that is repaired is heard
    again without us. Retry-After is passed on. All of one try takes at most 20 s, of which 5 s to connect; of the answer's body
    at most 2 KiB are read. Neither the secret nor the URL's path stands in any error.
    """

    name = "webhook"
    at_once = AT_ONCE

    def __init__(
        self, url: str, secret: str, clock: Clock, connections: PinnedConnections, answer_within_s: float = ANSWER_WITHIN_S
    ) -> None:
        self._url = httpx.URL(url)
        self._signature = standardwebhooks.Webhook(secret)
        self._clock = clock
        self._connections = connections
        self._answer_within_s = answer_within_s

    async def deliver(self, delivery: Delivery) -> None:
        """Returns when the receiver has answered 2xx. Raises NotDelivered."""
        try:
            async with asyncio.timeout(self._answer_within_s), self._connections.answer(self._request(delivery)) as response:
                if not response.is_success:
                    raise self._refused(response.status_code, response.headers, await _beginning(response))
        except TimeoutError:
            raise NotDelivered(f"{self._url.host} did not answer within {self._answer_within_s:g} s") from None
        except httpx.HTTPError as error:
            problem = str(error) or type(error).__name__
            raise NotDelivered(f"{self._url.host} cannot be reached: {_line(problem)}") from None

    def _request(self, delivery: Delivery) -> httpx.Request:
        body = write_body(delivery)
        message_id, now = f"msg_{delivery.message_id}", _time(self._clock.now_us())
        headers = {
            "content-type": "application/json",
            "user-agent": "water-quality-mesh",
            "accept-encoding": "identity",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signature.sign(message_id, now, body),
        }
        timeout = httpx.Timeout(self._answer_within_s, connect=min(CONNECT_WITHIN_S, self._answer_within_s))
        return httpx.Request("POST", self._url, headers=headers, content=body, extensions={"timeout": timeout.as_dict()})

    def _refused(self, status: int, headers: Mapping[str, str], said: str) -> NotDelivered:
        phrase = _PHRASES.get(status, "")
        problem = f"{self._url.host} answered {status} {phrase}".strip()
        if 300 <= status < 400:
            problem += "; redirects are not followed: webhook_url must name where it leads"
        if said:
            problem += f": {said}"
        retry_after_s = _retry_after_s(headers.get("retry-after", ""), _time(self._clock.now_us()))
        return NotDelivered(problem, for_good=status == HTTPStatus.GONE, retry_after_s=retry_after_s)


def write_body(delivery: Delivery) -> str:
    """What is posted for a delivery, the same bytes each time; ASCII."""
    said = delivery.announced
    happened = _time(said.changed_us).isoformat(timespec="microseconds").replace("+00:00", "Z")
    content = {"type": f"alert.{said.change}", "timestamp": happened, "data": said.data}
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


async def _beginning(response: httpx.Response) -> str:
    """What comes of the first 2 KiB of the body within a second, as sent, as one line for people."""
    content = b""
    with suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(BODY_WITHIN_S):
            async for part in response.aiter_raw():
                content += part[:MOST_ANSWER_BYTES]
                if len(content) >= MOST_ANSWER_BYTES:
                    break
    return _line(content[:MOST_ANSWER_BYTES].decode("utf-8", "replace"))


def _line(said: str) -> str:
    """At most 200 characters that can be printed."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in said).split())[:200]


def _retry_after_s(header: str, now: datetime) -> float:
    """RFC 9110, 10.2.3: seconds or a date; 0 for anything else."""
    if header.isascii() and header.isdigit():
        return float(header[:9])
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())


def _time(at_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at_us)
