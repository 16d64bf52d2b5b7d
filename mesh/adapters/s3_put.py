"""How does content become an object of S3 exactly once, whatever its size and whoever else puts it?"""

import base64
import hashlib
from collections.abc import Callable
from contextlib import closing
from typing import Any

import structlog
from botocore.exceptions import BotoCoreError, ClientError

from mesh.adapters.s3_client import AWAY, S3Settings, code_of, status_of
from mesh.errors import ObjectConflict, Unavailable

PART_BYTES = 16 * 1024 * 1024
"""Content that is larger goes in parts of this size, the last one smaller."""
_TRIES = 4
_BUSY = {"ConditionalRequestConflict", "OperationAborted"}
_log = structlog.get_logger()


def put(client: Any, settings: S3Settings, key: str, content: bytes) -> bool:
    """As the port says. Blocks; raises what boto3 raises, ObjectConflict, and Unavailable where others put and delete the same
    object all the time."""
    digest = hashlib.sha256(content).digest()
    write = write_whole if len(content) <= PART_BYTES else write_parts
    for _ in range(_TRIES):
        try:
            write(client, settings, key, content, digest)
            return True
        except ClientError as error:
            if code_of(error) in _BUSY:
                continue
            if status_of(error) != 412:
                raise
        if (same := _holds(client, settings, key, content, digest)) is not None:
            if not same:
                raise ObjectConflict(f"the object {key!r} exists with other content: objects never change")
            return False
    raise Unavailable(f"the object {key!r} is put and deleted by others all the time", reason=AWAY)


def digest_of(answer: Any) -> str:
    """The SHA-256 that a put of ours left with the object, hexadecimal; empty: it was put by somebody else."""
    return str(answer.get("Metadata", {}).get("sha256", ""))


def write_whole(client: Any, settings: S3Settings, key: str, content: bytes, digest: bytes) -> None:
    """One request. Raises ClientError with status 412 when the object is there."""
    place = {"Bucket": settings.bucket, "Key": key, "IfNoneMatch": "*"}
    client.put_object(**place, Body=content, Metadata={"sha256": digest.hex()}, **_checksum(settings, lambda: digest))


def write_parts(client: Any, settings: S3Settings, key: str, content: bytes, digest: bytes) -> None:
    """A request for each 16 MiB. Raises as `write_whole`. Nothing of it stays when it fails, unless the engine goes away
    meanwhile: a lifecycle rule of the bucket sweeps such parts."""
    place = {"Bucket": settings.bucket, "Key": key}
    algorithm = {"ChecksumAlgorithm": "SHA256"} if settings.checksums == "when_supported" else {}
    begun = client.create_multipart_upload(**place, Metadata={"sha256": digest.hex()}, **algorithm)
    upload = {**place, "UploadId": begun["UploadId"]}
    try:
        parts = [
            _write_part(client, settings, upload, number, content[start : start + PART_BYTES])
            for number, start in enumerate(range(0, len(content), PART_BYTES), start=1)
        ]
        client.complete_multipart_upload(**upload, IfNoneMatch="*", MultipartUpload={"Parts": parts})
    except BaseException:
        try:
            client.abort_multipart_upload(**upload)
        except (ClientError, BotoCoreError, OSError) as error:
            _log.warning("parts of an object were left behind", bucket=settings.bucket, key=key, problem=type(error).__name__)
        raise


def _write_part(client: Any, settings: S3Settings, upload: dict[str, Any], number: int, part: bytes) -> dict[str, Any]:
    checksum = _checksum(settings, lambda: hashlib.sha256(part).digest())
    done = client.upload_part(**upload, PartNumber=number, Body=part, **checksum)
    return {"PartNumber": number, "ETag": done["ETag"], **checksum}


def _checksum(settings: S3Settings, digest: Callable[[], bytes]) -> dict[str, str]:
    """The engine refuses a body that came to it changed."""
    return {"ChecksumSHA256": base64.b64encode(digest()).decode()} if settings.checksums == "when_supported" else {}


def _holds(client: Any, settings: S3Settings, key: str, content: bytes, digest: bytes) -> bool | None:
    """Whether the object has this content; None: it is not there."""
    place = {"Bucket": settings.bucket, "Key": key}
    try:
        head = client.head_object(**place)
        if head["ContentLength"] != len(content):
            return False
        if known := digest_of(head):
            return known == digest.hex()
        with closing(client.get_object(**place)["Body"]) as body:
            return bool(body.read() == content)
    except ClientError as error:
        if status_of(error) == 404:
            return None
        raise
