"""How is an object of S3 read whole, or not at all, when bytes get lost on the way or in its place?"""

import hashlib
import time
from contextlib import closing
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError

from mesh.adapters.object_paths import too_large
from mesh.adapters.s3_client import AWAY, CALL_S, SLOWEST_BYTES_PER_S, S3Settings, code_of, status_of
from mesh.adapters.s3_put import digest_of
from mesh.errors import FailedPrecondition, NotFound, Unavailable

_TRIES = 2
_PIECE_BYTES = 1024 * 1024


def get(client: Any, settings: S3Settings, key: str, path: str, limit: int | None) -> bytes:
    """As the port says. What broke on the way is read once more. Twice whole and twice not what was put: it is damaged where it
    lies. Blocks; raises what boto3 raises beside the port's errors."""
    for last in (False, True):
        try:
            content = _read(client, settings, key, path, limit)
        except FlexibleChecksumError:
            content = None
        except BotoCoreError:
            if last:
                raise
            continue
        if content is not None:
            return content
    message = f"the object {path!r} of {settings.where} is damaged: it is not what its checksum says; bring it back from a copy"
    raise FailedPrecondition(message, reason="OBJECT_DAMAGED", metadata={"path": path})


def _read(client: Any, settings: S3Settings, key: str, path: str, limit: int | None) -> bytes | None:
    """None: it came whole, and is not what was put."""
    try:
        answer = client.get_object(Bucket=settings.bucket, Key=key)
    except ClientError as error:
        if status_of(error) == 404 and code_of(error) != "NoSuchBucket":
            raise NotFound(f"no object {path!r}") from None
        raise
    size = int(answer["ContentLength"])
    with closing(answer["Body"]) as body:
        if limit is not None and size > limit:
            raise too_large(path, size, limit)
        content = _all_of(body, settings, path, size)
    known = digest_of(answer)
    return content if not known or hashlib.sha256(content).hexdigest() == known else None


def _all_of(body: Any, settings: S3Settings, path: str, size: int) -> bytes:
    deadline = time.monotonic() + CALL_S + size / SLOWEST_BYTES_PER_S
    pieces = []
    while piece := body.read(_PIECE_BYTES):
        pieces.append(piece)
        if time.monotonic() > deadline:
            raise Unavailable(f"{settings.where} is too slow (getting {path!r})", reason=AWAY)
    return b"".join(pieces)
