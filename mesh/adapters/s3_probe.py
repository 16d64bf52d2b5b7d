"""May this bucket hold the objects of a mesh? Tried out with objects of no importance, which are gone afterwards."""

import hashlib
import secrets
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from mesh.adapters.s3_client import CREDENTIALS, S3Settings, code_of, speaking, status_of
from mesh.adapters.s3_put import write_parts, write_whole
from mesh.errors import SetupError

_CONDITIONAL = (
    "use an engine whose puts are conditional, as those of AWS S3, MinIO, Ceph and versitygw are in their present versions:"
    " objects would be replaced silently"
)


def probe(client: Any, settings: S3Settings) -> None:
    """Raises SetupError that lists everything that does not work and what to do, Unavailable when nobody answers. Blocks."""
    with speaking(settings, "looking for it"):
        _find_bucket(client, settings)
    # `~` is not in the alphabet of paths: never an object of ours.
    key = f"{settings.key_prefix}~probe/{secrets.token_hex(8)}"
    place = {"Bucket": settings.bucket, "Key": key}
    one, two = (hashlib.sha256(content).digest() for content in (b"one", b"two"))
    problems: list[str] = []

    def refused(work: Callable[[], object], doing: str) -> int:
        """The HTTP status with which it is refused; 0: it is not."""
        try:
            work()
        except ClientError as error:
            if status_of(error) >= 500 and status_of(error) != 501:
                raise
            if status_of(error) != 412:
                problems.append(f"{doing} is refused ({status_of(error)} {code_of(error)}){_mend(error, settings)}")
            return status_of(error)
        return 0

    with speaking(settings, "trying it out"):
        if not refused(lambda: write_whole(client, settings, key, b"one", one), "s3:PutObject with If-None-Match"):
            if not refused(lambda: write_whole(client, settings, key, b"two", two), "a second s3:PutObject"):
                problems.append(f"PutObject does not heed If-None-Match: {_CONDITIONAL}")
            elif not refused(lambda: write_parts(client, settings, key, b"two", two), "s3:PutObject in parts"):
                problems.append(f"CompleteMultipartUpload does not heed If-None-Match: {_CONDITIONAL}")
            refused(lambda: client.get_object(**place)["Body"].close(), "s3:GetObject")
            refused(lambda: client.delete_object(**place), "s3:DeleteObject")
    if problems:
        raise SetupError(f"S3: {settings.where} cannot be used: " + "; ".join(problems))


def _find_bucket(client: Any, settings: S3Settings) -> None:
    try:
        client.list_objects_v2(Bucket=settings.bucket, Prefix=settings.key_prefix, MaxKeys=1)
    except ClientError as error:
        if status_of(error) >= 500:
            raise
        if status_of(error) == 404 and code_of(error) not in CREDENTIALS:
            mend = f"make it (aws --endpoint-url {settings.endpoint} s3 mb s3://{settings.bucket}), or name another in s3_bucket"
            raise SetupError(f"S3: there is no bucket {settings.bucket!r} at {settings.endpoint}: {mend}") from None
        said = f"listing {settings.where} is refused ({status_of(error)} {code_of(error)})"
        raise SetupError(f"S3: {said}{_mend(error, settings)}") from None


def _mend(error: ClientError, settings: S3Settings) -> str:
    code, status = code_of(error), status_of(error)
    if code in CREDENTIALS:
        return ": check s3_access_key, s3_secret_key and s3_region"
    if code == "RequestTimeTooSkewed":
        return ": set the clocks of this machine and of the engine"
    if status in (301, 307):
        return ": name the bucket's own region in s3_region, and its endpoint"
    if status in (401, 403):
        return ": give the key this right"
    if status in (400, 501) and settings.checksums != "when_required":
        return ': a look-alike may need s3_checksums = "when_required"'
    return ""
