"""How an S3 engine is reached, and what its errors mean to the mesh."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError, SSLError

from mesh.adapters.object_paths import segments_of
from mesh.errors import InvalidArgument, SetupError, Unavailable, WaterError

CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 20
ATTEMPTS = 2
CALL_S = 60.0
SLOWEST_BYTES_PER_S = 64 * 1024
MOST_THREADS = 32
CHECKSUMS = ("when_supported", "when_required")
AWAY, REFUSED, FULL = "OBJECTS_AWAY", "OBJECTS_REFUSED", "DISK_FULL"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_FULL_CODES = {"QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity", "InsufficientStorage"}
CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AuthorizationHeaderMalformed",
    "InvalidToken",
    "XAdminUserNotFound",
}
_SHARED_NAME = {"ExistingObjectIsDirectory", "ObjectParentIsFile"}  # gateways on a file system


@dataclass(frozen=True, slots=True)
class S3Settings:
    """A bucket of an S3 engine, by path-style addresses. `prefix`: a folder for everything, empty: none. `checksums`:
    "when_supported", or "when_required" for look-alikes that do not know x-amz-checksum-...; content is compared with its own
    SHA-256 in either case."""

    endpoint: str
    bucket: str
    region: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    checksums: str = "when_supported"
    prefix: str = ""

    @property
    def key_prefix(self) -> str:
        """What stands before every path."""
        return self.prefix.removesuffix("/") + "/" if self.prefix else ""

    @property
    def where(self) -> str:
        """For messages."""
        return f"the bucket {self.bucket!r} at {self.endpoint}"


def check_settings(settings: S3Settings) -> None:
    """Raises SetupError that names every setting that cannot work."""
    problems = []
    try:
        url = urlsplit(settings.endpoint)
        is_url = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and not (url.query or url.fragment)
        has_secret = url.username is not None or url.password is not None
    except ValueError:
        is_url, has_secret = False, "@" in settings.endpoint
    if has_secret:
        problems.append("s3_endpoint has a user name or a password: give them as s3_access_key and s3_secret_key")
    elif not is_url:
        problems.append(f"s3_endpoint = {settings.endpoint!r}: http://HOST:PORT or https://HOST was expected")
    if not _BUCKET.fullmatch(settings.bucket):
        problems.append(f"s3_bucket = {settings.bucket!r}: 3 to 63 of a-z 0-9 . - were expected")
    if not settings.region:
        problems.append("s3_region is empty: name one, us-east-1 where the engine has none")
    problems += [f"{name} is empty" for name in ("access_key", "secret_key") if not getattr(settings, name)]
    if settings.checksums not in CHECKSUMS:
        problems.append(f"s3_checksums = {settings.checksums!r}: one of {', '.join(CHECKSUMS)} was expected")
    try:
        segments_of(settings.prefix.removesuffix("/") or "x")
    except InvalidArgument as error:
        problems.append(f"the prefix {settings.prefix!r}: {error.message}")
    if problems:
        raise SetupError("S3: " + "; ".join(problems))


def make_client(settings: S3Settings) -> Any:
    """A client for as many as 32 threads, which opens nothing yet. A request has two tries of 3 s to connect and 20 s of silence
    each. Close it. Blocks (it reads the description of S3): run it in a thread."""
    # Not at the top: importing them opens a socket (urllib3 tries IPv6), and who has no S3 needs not wait for it.
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=MOST_THREADS,
        request_checksum_calculation=settings.checksums,
        response_checksum_validation=settings.checksums,
        s3={"addressing_style": "path"},
        tcp_keepalive=True,
    )
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        config=config,
    )


def code_of(error: ClientError) -> str:
    """The code of S3's answer; of an answer without a body its HTTP status."""
    return str(error.response.get("Error", {}).get("Code", "")) or str(status_of(error))


def status_of(error: ClientError) -> int:
    """Its HTTP status; 0: none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def speaking(settings: S3Settings, doing: str) -> Iterator[None]:
    """Whatever the driver raises inside the block is raised as one of our errors; nothing that the engine wrote but its code is
    repeated, so no secret is."""
    try:
        yield
    except WaterError:
        raise
    except Exception as error:  # noqa: BLE001 - the driver's have no common base; others are raised again as they are
        raise _translated(error, settings, doing) from None


def _translated(error: Exception, settings: S3Settings, doing: str) -> WaterError:
    if isinstance(error, ClientError):
        return _answered(error, settings, doing)
    if isinstance(error, SSLError):
        return Unavailable(f"{settings.where}: TLS with it failed: check its certificate", reason=AWAY)
    kind = type(error).__name__
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("botocore", "urllib3"):
        return Unavailable(f"{settings.where} is away ({kind} when {doing})", reason=AWAY)
    raise error


def _answered(error: ClientError, settings: S3Settings, doing: str) -> WaterError:
    code, status = code_of(error), status_of(error)
    said = f"it answered {status} {code} when {doing}"
    if code in _SHARED_NAME:
        return InvalidArgument(f"{doing}: this engine cannot have an object and a folder of one name: name another path")
    if code == "NoSuchBucket":
        return Unavailable(f"{settings.where} is gone: make it again, or name another in s3_bucket", reason=REFUSED)
    if code in CREDENTIALS:
        mend = "check s3_access_key, s3_secret_key and s3_region"
        return Unavailable(f"{settings.where} does not take our credentials: {said}; {mend}", reason=REFUSED)
    if code == "RequestTimeTooSkewed":
        return Unavailable(f"{settings.where} has another time than this machine: {said}; set the clocks", reason=REFUSED)
    if status in (401, 403):
        return Unavailable(f"{settings.where} does not allow it: {said}; give the key the right", reason=REFUSED)
    if status == 507 or code in _FULL_CODES:
        return Unavailable(f"{settings.where} is full: {said}; make room", reason=FULL)
    return Unavailable(f"{settings.where} cannot serve: {said}", reason=AWAY)
