"""Opaque tokens that callers carry for us: positions in the Log, page cursors, resume points."""

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mesh.errors import InvalidArgument

LONGEST_TOKEN = 65_536
"""Characters; ours have some hundreds."""


def write_token(kind: str, content: Mapping[str, Any]) -> str:
    """URL-safe text. Not secret and not signed: it may say where to go on, never what is allowed."""
    text = json.dumps({"k": kind, **content}, separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_token(kind: str, token: str, field: str) -> dict[str, Any]:
    """The content given to `write_token`. Raises InvalidArgument (INVALID_TOKEN), naming the field, for anything else."""
    try:
        if len(token) > LONGEST_TOKEN:
            raise ValueError
        content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        if content.pop("k") == kind:
            return dict(content)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        pass
    raise not_ours(kind, field)


def not_ours(kind: str, field: str) -> InvalidArgument:
    """What to raise for a token of this field that says nothing that we would have written."""
    problem = f"not a {kind} token of this service: pass it on exactly as it was returned"
    return InvalidArgument(f"{field}: {problem}", reason="INVALID_TOKEN", fields={field: problem})


def fingerprint(*parts: bytes) -> str:
    """Short digest of what a page token belongs to, so that a token of another query is recognised."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def write_position(log_id: str, topic: str, number: int, offset: int) -> str:
    """Where a batch stands in the Log, for `at_least`."""
    return write_token("position", {"log": log_id, "at": [[topic, number, offset]]})


def read_position(token: str, log_id: str, field: str) -> dict[tuple[str, int], int]:
    """(topic, partition) -> offset. Raises InvalidArgument, also (OTHER_LOG) for a position of another deployment."""
    content = read_token("position", token, field)
    if content.get("log") != log_id:
        problem = "a position of another deployment's log"
        raise InvalidArgument(f"{field}: {problem}", reason="OTHER_LOG", fields={field: problem})
    try:
        return {(str(topic), int(number)): int(offset) for topic, number, offset in content["at"]}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise not_ours("position", field) from error
