"""A look-alike of S3 that answers oddly on demand, over real HTTP: what the real engine of the tests never does."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape


@dataclass
class OddS3:
    """One bucket, `odd`. `ignores`: of "put" and "parts" what does not heed If-None-Match; `refusals`: the status and code of
    methods that are refused; `slow_downs`: so many requests are told to come later; `damages`: so many contents go out with a
    flipped bit, `cuts`: so many end in the middle; `page`: what a listing
    brings."""

    endpoint: str = ""
    ignores: set[str] = field(default_factory=set)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    slow_downs: int = 0
    damages: int = 0
    cuts: int = 0
    page: bytes = b"<ListBucketResult/>"
    requests: list[str] = field(default_factory=list)
    content: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def odd_s3() -> Iterator[OddS3]:
    """Serves inside the block."""
    odd = OddS3()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"odd": odd}))
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        odd.endpoint = f"http://127.0.0.1:{server.server_port}"
        yield odd
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    odd: OddS3
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def _serve(self) -> None:
        url = urlsplit(self.path)
        asked = parse_qs(url.query, keep_blank_values=True)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = url.path.removeprefix("/odd").removeprefix("/")
        self.odd.requests.append(f"{self.command} {key}")
        if self.odd.slow_downs:
            self.odd.slow_downs -= 1
            self._fail(503, "SlowDown")
        elif self.command in self.odd.refusals:
            self._fail(*self.odd.refusals[self.command])
        elif not key:
            self._answer(self.odd.page)
        elif "uploads" in asked:
            self._answer(
                f"<CreateMultipartUploadResult><UploadId>{escape(key)}</UploadId></CreateMultipartUploadResult>".encode()
            )
        elif "uploadId" in asked:
            self._upload(key, body)
        elif self.command == "PUT":
            self._put(key, body, "put")
        elif self.command == "DELETE":
            self.odd.content.pop(key, None)
            self._answer(b"", 204)
        elif key in self.odd.content:
            self._get(*self.odd.content[key])
        else:
            self._fail(404, "NoSuchKey")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _upload(self, key: str, body: bytes) -> None:
        if self.command == "PUT":
            self.odd.parts[key] = body
            self._answer(b"", etag='"part"')
        elif self.command == "DELETE":
            self.odd.parts.pop(key, None)
            self._answer(b"", 204)
        elif self._put(key, self.odd.parts.get(key, b""), "parts"):
            self.odd.parts.pop(key, None)

    def _put(self, key: str, body: bytes, how: str) -> bool:
        if key in self.odd.content and self.headers.get("If-None-Match") and how not in self.odd.ignores:
            self._fail(412, "PreconditionFailed")
            return False
        self.odd.content[key] = body, self.headers.get("x-amz-meta-sha256", "")
        self._answer(b"<CompleteMultipartUploadResult/>" if how == "parts" else b"", etag=f'"{hashlib.md5(body).hexdigest()}"')
        return True

    def _get(self, content: bytes, sha256: str) -> None:
        if self.odd.damages and self.command == "GET":
            self.odd.damages -= 1
            content = bytes([content[0] ^ 1]) + content[1:]
        self._answer(content, sha256=sha256)

    def _answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            if value:
                self.send_header({"etag": "ETag", "sha256": "x-amz-meta-sha256"}[name], value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.odd.cuts and self.command == "GET" and body and not body.startswith(b"<"):
            self.odd.cuts -= 1
            body, self.close_connection = body[: len(body) // 2], True
        self.wfile.write(body)

    def _fail(self, status: int, code: str) -> None:
        self._answer(f"<Error><Code>{code}</Code><Message>told so</Message></Error>".encode(), status)
