"""The page's server over a real mesh: what it streams, what it answers, and whom it refuses."""

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest

from mesh.clock import SystemClock
from mesh.errors import SetupError
from tests.builders import a_reading, readings_of, some_readings
from tests.flows.process import free_port
from tests.web.dashboard import Heard, Sending, client, hearing, now_us, post
from water.parameter import PARAMETERS
from web_svc.browser import MOST_BROWSERS
from web_svc.wiring import serving_web


async def test_the_stream_begins_with_everything_and_goes_on_with_what_changes(
    page: str, sending: Sending, sensor_id: int
) -> None:
    key = str(sensor_id)
    async with sending("north") as gateway:
        first_us = now_us()
        await gateway.send(a_reading(sensor_id, first_us, ph=7.25, turbidity_ntu=3.0))
        await gateway.flush(30)
        async with hearing(page) as heard:
            await heard.until(lambda heard: key in heard.parts["readings"])
            assert heard.resets == 1
            _, measured_us, values, flags = heard.parts["readings"][key]
            assert (measured_us, values[:3], flags[2:]) == (first_us, [7.25, 3.0, None], "9" * (len(PARAMETERS) - 2))
            await gateway.send(a_reading(sensor_id, first_us + 1_000_000, ph=17.0))
            await heard.until(lambda heard: heard.parts["readings"][key][1] == first_us + 1_000_000)
            assert heard.parts["readings"][key][2][0] == 17.0
            assert heard.parts["readings"][key][3][0] == "4"
            await heard.until(lambda heard: heard.parts["sensors"][key]["region"] == "north")
            await heard.until(lambda heard: heard.pipeline and heard.ledger.get("accepted_count", 0) >= 2)
            assert {"accept", "screen", "record"} <= {stage["stage"] for stage in heard.pipeline["stages"]}
            assert [parameter["number"] for parameter in heard.about["parameters"]] == [one.number for one in PARAMETERS]
            assert heard.resets == 1


async def test_what_is_served_is_said_to_be_well_and_what_is_not_is_said_to_be_not_served(page: str) -> None:
    async with hearing(page) as heard:
        await heard.next()
        assert len(heard.parts["sources"]) == 6
        await heard.until(lambda heard: all(one["problem"] != "connecting" for one in heard.parts["sources"].values()))
        problems = {name: one["problem"] for name, one in heard.parts["sources"].items()}
    assert problems.pop("alerts") in ("", "not served")
    assert problems == dict.fromkeys(("sensors", "readings", "stored readings", "pipeline", "ledger"), "")


async def test_a_page_whose_services_are_away_is_there_and_says_so() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    async with serving_web(nobody, "127.0.0.1", 0, SystemClock()) as address, client(f"http://{address}") as http:
        assert (await http.get("/")).status_code == 200
        async with hearing(f"http://{address}") as heard:
            away = "the services do not answer; trying again"
            await heard.until(lambda heard: heard.parts["sources"].get("ledger", {}).get("problem") == away)
        answer = await http.get("/series?sensor=1&parameter=1&span_s=900")
        assert (answer.status_code, answer.json()["error"]["reason"]) == (503, "UNAVAILABLE")
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_chart_has_every_stored_value_with_its_flag(page: str, sending: Sending, sensor_id: int) -> None:
    start_us = now_us() - 300_000_000
    rows = [(sensor_id, start_us + step * 1_000_000, {"ph": 17.0 if step == 5 else 7.0 + step / 100}) for step in range(20)]
    async with sending("north") as gateway:
        await gateway.send(readings_of(*rows))
    answer = await _stored_series(page, sensor_id, 1, 900, 20)
    assert answer["bucket_s"] == 0
    assert answer["at_us"] == [at_us for _, at_us, _ in rows]
    assert answer["value"] == [values["ph"] for _, _, values in rows]
    assert answer["flag"][5] == "4"
    assert answer["sensor_id"] == str(sensor_id)


async def test_a_chart_of_more_than_fits_is_in_buckets_that_hold_it_all(page: str, sending: Sending, sensor_id: int) -> None:
    readings = some_readings(12_000, [sensor_id], start=now_us() - 12_600_000_000, period_s=1.0)
    async with sending("north") as gateway:
        await gateway.send(readings)
    answer = await _stored_series(page, sensor_id, 2, 21_600, 12_000)
    assert answer["bucket_s"] == 36
    assert sum(answer["count"]) == 12_000
    assert min(answer["min"]) == pytest.approx(float(np.min(readings.values[1])), abs=1e-3)
    assert max(answer["max"]) == pytest.approx(float(np.max(readings.values[1])), abs=1e-3)
    assert all(low <= mean <= high for low, mean, high in zip(answer["min"], answer["mean"], answer["max"], strict=True))


async def test_a_chart_of_old_readings_ends_with_the_newest(page: str, sending: Sending, sensor_id: int) -> None:
    async with sending("north") as gateway:
        await gateway.send(some_readings(50, [sensor_id], start="2024-05-01", period_s=1.0))
        await gateway.flush(30)
        async with hearing(page) as heard:
            await heard.until(lambda heard: str(sensor_id) in heard.parts["readings"])
            answer = await _stored_series(page, sensor_id, 1, 900, 50)
    assert answer["end_us"] == answer["at_us"][-1]


async def _stored_series(page: str, sensor: int, parameter: int, span_s: int, count: int) -> dict[str, Any]:
    """The chart's answer, once the readings are recorded."""
    async with client(page) as http, asyncio.timeout(30):
        while True:
            response = await http.get("/series", params={"sensor": sensor, "parameter": parameter, "span_s": span_s})
            assert response.status_code == 200, response.text
            answer: dict[str, Any] = response.json()
            if sum(answer.get("count", [1] * len(answer["at_us"]))) == count:
                return answer
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ({}, {"sensor", "parameter", "span_s"}),
        ({"sensor": "1", "parameter": "9", "span_s": "900"}, {"parameter"}),
        ({"sensor": "-1", "parameter": "1", "span_s": "1"}, {"sensor", "span_s"}),
        ({"sensor": "9" * 19, "parameter": "1", "span_s": "900"}, {"sensor"}),
        ({"sensor": "٣", "parameter": "<b>", "span_s": "900"}, {"sensor", "parameter"}),
    ],
)
async def test_a_wrong_question_for_a_chart_names_each_word_that_is_wrong(
    page: str, words: dict[str, str], named: set[str]
) -> None:
    async with client(page) as http:
        answer = await http.get("/series", params=words)
    assert answer.status_code == 400
    assert set(answer.json()["error"]["fields"]) == named


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8081", "127.0.0.1.evil.example", "", "10.0.0.1", "a@127.0.0.1"])
@pytest.mark.parametrize("path", ["/", "/live", "/series?sensor=1&parameter=1&span_s=900"])
async def test_a_request_by_another_name_is_refused_and_told_the_address(page: str, host: str, path: str) -> None:
    async with client(page) as http:
        answer = await http.get(path, headers={"host": host})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (403, "WRONG_HOST")
    assert "http://127.0.0.1" in answer.json()["error"]["message"]


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost:9999", "LOCALHOST", "[::1]:8081"])
async def test_a_request_by_a_name_of_this_machine_is_answered(page: str, host: str) -> None:
    async with client(page) as http:
        assert (await http.get("/", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"origin": ""}, 403, "WRONG_ORIGIN"),
        ({"origin": "null"}, 403, "WRONG_ORIGIN"),
        ({"origin": "http://evil.example"}, 403, "WRONG_ORIGIN"),
        ({"origin": "http://127.0.0.1:1"}, 403, "WRONG_ORIGIN"),
        ({"sec_fetch_site": "cross-site"}, 403, "WRONG_ORIGIN"),
        ({"sec_fetch_site": "same-site"}, 403, "WRONG_ORIGIN"),
        ({"content_type": ""}, 400, "NOT_JSON"),
        ({"content_type": "text/plain"}, 400, "NOT_JSON"),
        ({"content_type": "application/x-www-form-urlencoded"}, 400, "NOT_JSON"),
        ({"host": "evil.example"}, 403, "WRONG_HOST"),
    ],
)
async def test_a_post_that_the_page_did_not_make_is_refused(page: str, headers: dict[str, str], status: int, reason: str) -> None:
    answer = await post(page, "/alerts/1/acknowledge", **headers)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (status, reason)
    assert ":" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/alerts/1/acknowledge", b"x" * 17_000, 413, "16384 bytes"),
        ("/alerts/1/acknowledge", b"{", 400, "no JSON"),
        ("/alerts/1/acknowledge", b"[" * 16_000, 400, "no JSON"),
        ("/alerts/1/acknowledge", b"\xff", 400, "no JSON"),
        ("/alerts/1/acknowledge", b"[]", 400, "comment"),
        ("/alerts/1/acknowledge", b'{"comment": 1}', 400, "comment"),
        ("/alerts/1/acknowledge", b'{"actor": "root"}', 400, "comment"),
        ("/alerts/1/comment", b'{"comment": "\\ud800"}', 400, "surrogate"),
        ("/alerts/0/acknowledge", b"{}", 400, "'0'"),
        ("/alerts/x/acknowledge", b"{}", 400, "'x'"),
        ("/alerts/99999999999999999999/acknowledge", b"{}", 400, "99999"),
        ("/alerts/1/delete", b"{}", 400, "acknowledge, resolve or comment"),
    ],
)
async def test_a_post_with_wrong_content_is_told_what_is_wrong(page: str, path: str, body: bytes, status: int, says: str) -> None:
    answer = await post(page, path, body)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]


async def test_only_files_of_the_page_are_given_out_whatever_the_path(page: str) -> None:
    async with client(page) as http:
        for path in (
            "/app.py",
            "/../app.py",
            "/%2e%2e/app.py",
            "/vendor/../../app.py",
            "/vendor/README.md",
            "/page.js/",
        ):
            assert (await http.get(path)).status_code == 404, path
        for method in ("PUT", "DELETE", "POST", "OPTIONS"):
            answer = await http.request(method, "/", headers={"origin": page, "content-type": "application/json"})
            assert answer.status_code == 405, method


async def test_every_answer_has_the_policy_and_a_file_is_sent_again_only_when_it_changed(page: str) -> None:
    async with client(page) as http:
        for path in ("/", "/page.js", "/nothing", "/series", "/vendor/uPlot.esm.js"):
            headers = (await http.get(path)).headers
            assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
            assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        etag = (await http.get("/page.js")).headers["etag"]
        again = await http.get("/page.js", headers={"if-none-match": etag})
        assert (again.status_code, again.content) == (304, b"")


async def test_two_hundred_browsers_are_served_and_one_more_is_told_so(page: str) -> None:
    async with AsyncExitStack() as stack:
        served = [await stack.enter_async_context(hearing(page)) for _ in range(MOST_BROWSERS)]
        for heard in served:
            await heard.next()
            assert heard.last_event == ""
        refused = await stack.enter_async_context(hearing(page))
        await refused.next()
        assert refused.last_event == "refused"
    await _heard_within(page, lambda heard: heard.resets)


async def _heard_within(page: str, holds: Any) -> None:
    """A browser hears it, as soon as the places of others are free again."""
    async with asyncio.timeout(10):
        while True:
            async with hearing(page) as heard:
                await heard.next()
                if holds(heard):
                    return
            await asyncio.sleep(0.05)


async def test_a_browser_that_reads_nothing_keeps_nobody_waiting(page: str, sending: Sending, sensor_id: int) -> None:
    host, port = page.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as deaf:
        deaf.sendall(f"GET /live HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        async with sending("north") as gateway, hearing(page) as heard:
            for _ in range(20):
                at_us = now_us()
                await gateway.send(some_readings(200, range(sensor_id, sensor_id + 200), start=at_us))
                await heard.until(lambda heard, at_us=at_us: _newest(heard, sensor_id) >= at_us)  # type: ignore[misc]


def _newest(heard: Heard, sensor_id: int) -> int:
    return int(heard.parts["readings"].get(str(sensor_id), ["", 0])[1])


async def test_a_stop_closes_open_streams_within_two_seconds(mesh: Any) -> None:
    async with AsyncExitStack() as stack:
        async with serving_web(mesh.target, "127.0.0.1", 0, SystemClock()) as address:
            heard = [await stack.enter_async_context(hearing(f"http://{address}")) for _ in range(5)]
            for one in heard:
                await one.next()
            host, port = address.split(":")
            deaf = stack.enter_context(socket.create_connection((host, int(port))))
            deaf.sendall(f"GET /live HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
            began_s = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began_s < 2
        for one in heard:
            await one.until(lambda one: one.last_event == "closing")


async def test_a_busy_port_is_refused_and_names_its_setting(page: str) -> None:
    port = int(page.rpartition(":")[2])
    with pytest.raises(SetupError, match="web_port") as caught:
        async with serving_web("127.0.0.1:1", "127.0.0.1", port, SystemClock()):
            pass
    assert caught.value.reason == "PORT_BUSY"


async def test_an_address_that_others_reach_is_refused() -> None:
    with pytest.raises(SetupError) as caught:
        async with serving_web("127.0.0.1:1", "0.0.0.0", 0, SystemClock()):
            pass
    assert caught.value.reason == "OPEN_WITHOUT_TLS"
