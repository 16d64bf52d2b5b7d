"""A webhook is signed, known by its id, and tried again after anything but a 2xx; no receiver can hold or harm its sender."""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
import standardwebhooks

from alert_svc.channel import NotDelivered
from alert_svc.webhook import MOST_ANSWER_BYTES, Webhook, write_body
from alert_svc.webhook_address import PinnedConnections
from mesh.clock import SystemClock
from tests.alert.noticing import a_delivery
from tests.alert.receiver import SECRET, Answer, Receiver, answering, cutting, dripping, flooding, hanging, receiving

QUICK_S = 0.3


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


def a_webhook(url: str, answer_within_s: float = 20.0, private: bool = True) -> Webhook:
    return Webhook(url, SECRET, SystemClock(), PinnedConnections(private), answer_within_s)


def a_request(url: str) -> httpx.Request:
    """A signed webhook as it is sent."""
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": standardwebhooks.Webhook(SECRET).sign("msg_1", now, "{}"),
    }
    timeout = httpx.Timeout(5).as_dict()
    return httpx.Request("POST", url, headers=headers, content="{}", extensions={"timeout": timeout})


async def refused(receiver: Receiver, *answers: Answer, answer_within_s: float = 20.0) -> NotDelivered:
    """What comes of a delivery that the receiver answers like that."""
    receiver.answers = list(answers)
    with pytest.raises(NotDelivered) as caught:
        await a_webhook(receiver.url, answer_within_s).deliver(a_delivery())
    return caught.value


async def test_a_change_arrives_signed_with_type_time_and_the_alert(receiver: Receiver) -> None:
    await a_webhook(receiver.url).deliver(a_delivery(17, 2))
    (received,) = receiver.received
    assert received.message_id == "msg_0123abcd"
    content = received.content
    assert (content["type"], content["timestamp"]) == ("alert.acknowledged", "2026-01-01T00:00:02.000000Z")
    assert set(content) == {"type", "timestamp", "data"}
    data = content["data"]
    assert (data["alert_id"], data["sensor_id"], data["site_id"]) == ("17", "4711", "weir-1")
    assert (data["state"], data["kind"]) == ("ALERT_STATE_ACKNOWLEDGED", "CONDITION_KIND_LIMIT")
    assert (data["severity_level"], data["summary"], len(data["history"])) == (4, "pH 4.1 at the weir", 2)


async def test_a_repeat_has_the_same_id_and_body(receiver: Receiver) -> None:
    webhook, delivery = a_webhook(receiver.url), a_delivery()
    receiver.answers = [answering(500)]
    with pytest.raises(NotDelivered, match=r"127\.0\.0\.1 answered 500 Internal Server Error"):
        await webhook.deliver(delivery)
    await webhook.deliver(delivery)
    first, second = receiver.received
    assert (first.message_id, first.body) == (second.message_id, second.body)


def test_the_body_stays_small_however_old_the_alert_is() -> None:
    delivery = a_delivery(1, 500)
    content = json.loads(write_body(delivery))
    assert len(write_body(delivery)) < 20_000  # Standard Webhooks: usually smaller than 20 kB
    assert [step["time"] for step in content["data"]["history"]][-1] == content["timestamp"].replace(".000000", "")


@pytest.mark.parametrize("status", [300, 400, 401, 404, 408, 425, 429, 500, 502, 503, 504, 599])
async def test_anything_but_success_is_tried_again(receiver: Receiver, status: int) -> None:
    failure = await refused(receiver, answering(status, b"<b>no\x1b[31m\nway</b>"))
    assert not failure.for_good
    assert f"answered {status}" in failure.problem
    assert failure.problem.endswith(": <b>no [31m way</b>")


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_success_is_one(receiver: Receiver, status: int) -> None:
    receiver.answers = [answering(status)]
    await a_webhook(receiver.url).deliver(a_delivery())
    assert len(receiver.received) == 1


async def test_a_receiver_that_wants_no_more_is_not_asked_again_for_this_change(receiver: Receiver) -> None:
    assert (await refused(receiver, answering(410))).for_good


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_loopback_is_not_followed(receiver: Receiver, status: int) -> None:
    async with receiving() as inside:
        failure = await refused(receiver, answering(status, location=inside.url))
        assert "redirects are not followed" in failure.problem
        assert not failure.for_good
        assert inside.connections == 0
    assert len(receiver.received) == 1


async def test_retry_after_is_passed_on_as_seconds_and_as_a_date(receiver: Receiver) -> None:
    assert (await refused(receiver, answering(429, Retry_After="120"))).retry_after_s == 120
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)
    assert 580 < (await refused(receiver, answering(503, Retry_After=date))).retry_after_s <= 600
    for useless in ("soon", "-5", "1e9", "Wed, 21 Oct 2015 07:28:00 GMT", ""):
        assert (await refused(receiver, answering(503, Retry_After=useless))).retry_after_s == 0


@pytest.mark.parametrize("behaviour", [hanging, dripping])
async def test_a_receiver_that_never_comes_to_an_answer_costs_one_deadline(receiver: Receiver, behaviour: Answer) -> None:
    begun = asyncio.get_running_loop().time()
    failure = await refused(receiver, behaviour, answer_within_s=QUICK_S)
    assert "did not answer within 0.3 s" in failure.problem
    assert asyncio.get_running_loop().time() - begun < 10


async def test_a_huge_answer_is_read_no_further_than_its_beginning(receiver: Receiver) -> None:
    tracemalloc.start()
    failure = await refused(receiver, flooding)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "answered 500" in failure.problem
    assert len(failure.problem) < 300 < MOST_ANSWER_BYTES
    assert peak < 5_000_000


async def test_an_error_whose_text_never_ends_is_still_that_error(receiver: Receiver) -> None:
    async def slow_gone(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 410 x\r\ncontent-length: 100\r\n\r\nabc")
        while not writer.is_closing():
            writer.write(b"z")
            await writer.drain()
            await asyncio.sleep(0.5)

    failure = await refused(receiver, slow_gone)
    assert failure.for_good
    assert "410 Gone: abc" in failure.problem


async def test_success_counts_as_soon_as_it_is_known_whatever_follows(receiver: Receiver) -> None:
    async def and_then_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\nabc")
        await hanging(reader, writer)

    receiver.answers = [and_then_nothing]
    await a_webhook(receiver.url).deliver(a_delivery())
    assert len(receiver.received) == 1


async def test_a_connection_that_breaks_or_never_was_is_said(receiver: Receiver) -> None:
    assert "cannot be reached" in (await refused(receiver, cutting)).problem
    closed = receiver.url.replace(str(receiver.port), "1")
    with pytest.raises(NotDelivered, match=r"127\.0\.0\.1 cannot be reached"):
        await a_webhook(closed).deliver(a_delivery())


async def test_an_answer_that_is_no_http_is_said(receiver: Receiver) -> None:
    async def chatter(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n\r\n")

    assert "cannot be reached" in (await refused(receiver, chatter)).problem


async def test_a_private_target_is_refused_unless_it_is_allowed(receiver: Receiver) -> None:
    with pytest.raises(NotDelivered, match=r"127\.0\.0\.1 are not public.*webhook_private"):
        await a_webhook(receiver.url, private=False).deliver(a_delivery())
    assert receiver.connections == 0


async def test_neither_secret_nor_path_stand_in_any_error(receiver: Receiver) -> None:
    failures = [await refused(receiver, answering(500)), await refused(receiver, hanging, answer_within_s=QUICK_S)]
    failures += [await refused(receiver, cutting), await refused(receiver, answering(302, location="x"))]
    told = " ".join(f"{failure!r} {failure.problem}" for failure in failures) + repr(a_webhook(receiver.url))
    assert SECRET not in told
    assert SECRET.removeprefix("whsec_") not in told
    assert "token" not in told


async def test_a_cancelled_delivery_leaves_no_connection_open(receiver: Receiver) -> None:
    come, gone = asyncio.Event(), asyncio.Event()

    async def watched(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        come.set()
        await reader.read()
        gone.set()

    receiver.answers = [watched]
    task = asyncio.create_task(a_webhook(receiver.url).deliver(a_delivery()))
    await asyncio.wait_for(come.wait(), 10)
    task.cancel()
    await asyncio.wait_for(gone.wait(), 10)
