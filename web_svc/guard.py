"""Which requests may reach the page, and what every answer forbids the browser? (no other site, no injected script)"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mesh.listen import is_loopback

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
_READS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered, and what would be right."""

    status: int
    reason: str
    message: str

    def response(self) -> Response:
        return JSONResponse({"error": {"reason": self.reason, "message": self.message}}, self.status)


class Guard:
    """Passes on what may pass: a Host that is loopback or `host`, and what changes something only from our own page, as JSON.
    Another page in the same browser, also one that a rebound name leads here, can neither read nor post."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        await (refusal.response() if refusal else self._app)(scope, receive, send_guarded)

    def _refusal(self, method: str, headers: Headers) -> Refusal | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            mend = "open the page by its address, for example http://127.0.0.1 and the port"
            return Refusal(403, reason="WRONG_HOST", message=f"Host {host[:200]!r} is not this page's: {mend}")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
            return Refusal(403, reason="WRONG_ORIGIN", message="another site asks: open the page itself, http://" + host)
        if method in _READS:
            return None
        origin = headers.get("origin", "")
        if origin not in (f"http://{host}", f"https://{host}"):
            mend = f"only the page itself may do that: send Origin http://{host}"
            return Refusal(403, reason="WRONG_ORIGIN", message=f"Origin {origin[:200]!r} is not this page's; {mend}")
        content_type = headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() != "application/json":
            problem = f"Content-Type {content_type[:200]!r}: send JSON, with Content-Type application/json"
            return Refusal(400, reason="NOT_JSON", message=problem)
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, _ = parts.hostname or "", parts.port
        except ValueError:
            return False
        plain = not (parts.path or parts.query or parts.fragment or parts.username)
        return plain and bool(name) and (is_loopback(name) or name == self._host.lower())
