"""What does the page's server answer to which address?"""

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mesh.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    TooLarge,
    Unavailable,
    Unsupported,
    WaterError,
    from_rpc,
)
from mesh.ports import Clock
from web_svc.browser import Browser
from web_svc.files import read_files
from web_svc.guard import Guard, Refusal
from web_svc.live import Live
from web_svc.series import read_question
from web_svc.source import in_words

MOST_BODY_BYTES = 16 * 1024
BODY_WITHIN_S = 10.0
MOST_COMMENT = 2_000
_HTTP: dict[type[WaterError], int] = {
    InvalidArgument: 400,
    NotFound: 404,
    AlreadyExists: 409,
    Conflict: 409,
    FailedPrecondition: 409,
    TooLarge: 413,
    Unsupported: 501,
    Unavailable: 503,
}
_Endpoint = Callable[["Page", Request], Awaitable[Response]]
_log = structlog.get_logger()


def make_app(live: Live, host: str, clock: Clock) -> ASGIApp:
    """The page. `host`: the address it listens on, which a request may name besides loopback."""
    page = Page(live, clock)
    app = Starlette(
        routes=[
            Route("/", page.index),
            Route("/live", page.stream),
            Route("/series", page.chart),
            Route("/alerts/{alert_id}", page.history),
            Route("/alerts/{alert_id}/{action}", page.act, methods=["POST"]),
            Route("/{path:path}", page.file),
        ],
        exception_handlers={HTTPException: _refuse},
    )
    return Guard(app, host)


def says_errors(endpoint: _Endpoint) -> _Endpoint:
    """Wraps an endpoint: an error of the services becomes its HTTP status and one line, anything else is logged and a 500."""

    @functools.wraps(endpoint)
    async def answer(self: "Page", request: Request) -> Response:
        try:
            return await endpoint(self, request)
        except grpc.RpcError as error:
            return error_response(from_rpc(error))
        except WaterError as error:
            return error_response(error)
        except ClientDisconnect:
            return Response(None, 400)
        except Exception as error:  # noqa: BLE001 - the edge: nothing of ours may leak to a browser
            _log.exception("page failed", path=request.url.path, error=repr(error))
            return Refusal(500, reason="FAULT", message="internal error; the server's log has the details").response()

    return answer


def error_response(error: WaterError) -> Response:
    """{"error": {reason, message, fields}} with the status of its kind, and when to try again."""
    headers = {"Retry-After": str(max(1, round(error.retry_after_s)))} if error.retry_after_s is not None else {}
    message = in_words(error) if isinstance(error, Unavailable | Unsupported) else error.message
    content = {"error": {"reason": error.reason, "message": message, "fields": error.fields}}
    return JSONResponse(content, _HTTP.get(type(error), 500), headers)


class Page:
    """The endpoints."""

    def __init__(self, live: Live, clock: Clock) -> None:
        self._live = live
        self._clock = clock
        self._files = read_files()

    async def index(self, request: Request) -> Response:
        return self._files["index.html"].answer(request)

    async def file(self, request: Request) -> Response:
        found = self._files.get(request.path_params["path"])
        if found is None:
            return Refusal(404, reason="NO_SUCH_PAGE", message=f"nothing is at {request.url.path[:200]}: open /").response()
        return found.answer(request)

    async def stream(self, request: Request) -> Any:
        return Browser(self._live.board, self._clock)

    @says_errors
    async def chart(self, request: Request) -> Response:
        question = read_question(request.query_params)
        return JSONResponse(await self._live.series.read(question))

    @says_errors
    async def history(self, request: Request) -> Response:
        return Response(await self._live.alerts.history(_alert_id(request)), media_type="application/json")

    @says_errors
    async def act(self, request: Request) -> Response:
        alert_id, comment = _alert_id(request), await _read_comment(request)
        alert = await self._live.alerts.act(alert_id, request.path_params["action"], comment)
        return Response(f'{{"alert":{alert}}}', media_type="application/json")


def _alert_id(request: Request) -> int:
    text: str = request.path_params["alert_id"]
    if not (text.isascii() and text.isdigit() and 0 < int(text[:20]) < 1 << 63):
        raise InvalidArgument(f"alert {text[:40]!r} is no alert's id: a whole number, 1 or more")
    return int(text)


async def _read_comment(request: Request) -> str:
    """From the body, {"comment": text}; empty where there is none. Raises InvalidArgument or TooLarge."""
    body = b""
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            async for part in request.stream():
                body += part
                if len(body) > MOST_BODY_BYTES:
                    raise TooLarge(f"the request has more than {MOST_BODY_BYTES} bytes: shorten the comment")
    except TimeoutError:
        raise InvalidArgument(f"the request did not arrive within {BODY_WITHIN_S:g} s: send it again") from None
    try:
        content = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise InvalidArgument('the request is no JSON: send {"comment": "..."}') from None
    comment = content.get("comment", "") if isinstance(content, dict) else None
    if not isinstance(comment, str) or len(comment) > MOST_COMMENT or set(content) - {"comment"}:
        raise InvalidArgument(f'the request must be {{"comment": "..."}}, at most {MOST_COMMENT} characters')
    try:
        comment.encode()
    except UnicodeEncodeError:
        raise InvalidArgument("the comment has half a character (a lone surrogate): write it again") from None
    return comment


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}; the page is at /"
    return Refusal(error.status_code, reason="NO_SUCH_PAGE", message=message).response()
