"""Which files does the page consist of, and how are they answered?"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """Its bytes, read once; a browser asks again each time, and is answered 304 when it has them."""

    content: bytes
    media_type: str
    etag: str

    def answer(self, request: Request) -> Response:
        headers = {"ETag": self.etag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == self.etag:
            return Response(None, 304, headers)
        return Response(self.content, 200, headers, self.media_type)


def read_files(folder: Path = STATIC) -> dict[str, PageFile]:
    """All that a browser may have, by its path below the folder: a name from an address is only ever looked up here."""
    found = {}
    for path in folder.rglob("*"):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[path.relative_to(folder).as_posix()] = PageFile(content, _TYPES[path.suffix], etag)
    return found
