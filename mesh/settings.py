"""Settings of a process: defaults, then a TOML file, then the environment (WQ_...), then flags. Frozen once read."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mesh.errors import SetupError

FURTHEST_S = 432_000
"""As far in the future a reading may be measured where days are dropped one day: their tables are made a week ahead."""


class Settings(BaseSettings):
    """Every setting of the mesh. The environment name of `grpc_port` is WQ_GRPC_PORT."""

    model_config = SettingsConfigDict(env_prefix="WQ_", frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on. Any but loopback needs TLS, which is not built yet.")
    grpc_port: int = Field(50051, ge=0, le=65535, description="Port of the gRPC services; 0 takes a free one.")
    http_port: int = Field(8080, ge=0, le=65535, description="Port of the metrics page (Prometheus text); 0 takes a free one.")
    web_port: int = Field(8081, ge=0, le=65535, description="Port of the dashboard; 0 takes a free one.")
    postgres_user: str = Field(
        "nobody",
        description="As root only: the unprivileged user that the embedded PostgreSQL runs as; it refuses to run as root.",
    )
    fsync: bool = Field(
        True, description="False makes the embedded PostgreSQL forget acknowledged readings in a power failure: tests only."
    )
    log_level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="Lowest level that is logged: debug, info, warning or error."
    )
    partitions: int = Field(4, ge=1, le=1024, description="Partitions of each log topic, fixed when the data directory is made.")
    slots: int = Field(8, ge=2, le=4096, description="Hash partitions of sensor_readings, fixed when the data directory is made.")
    retention_days: float = Field(
        7,
        gt=0,
        le=36_500,
        description="How long log records are kept at least; never dropped before every stage has passed them.",
    )
    max_batch_readings: int = Field(10_000, ge=1, le=100_000, description="Readings a batch may have.")
    max_batch_bytes: int = Field(512 * 1024, ge=1024, le=1024 * 1024, description="Bytes a batch may have.")
    window_batches: int = Field(64, ge=1, le=10_000, description="Unacknowledged batches a stream may have.")
    window_bytes: int = Field(8 * 1024 * 1024, ge=1024 * 1024, description="Unacknowledged bytes a stream may have.")
    max_streams: int = Field(4096, ge=1, description="Open gateway streams of one server; further ones are told to try again.")
    stream_open_s: float = Field(30, gt=0, le=600, description="How long a stream may wait before its first frame.")
    unread_s: float = Field(
        30, gt=0, le=600, description="How long a gateway or partner may leave unread what its stream brings, before it is ended."
    )
    future_tolerance_s: float = Field(300, ge=0, le=31_536_000, description="How far in the future a reading may be measured.")
    horizon_us: int = Field(
        946_684_800_000_000,
        ge=0,
        le=4_102_444_800_000_000,
        description="Readings measured before this are refused, microseconds since 1970; default 2000-01-01T00:00:00Z.",
    )
    silence_gateway_s: float = Field(
        300, ge=0, le=604_800, description="A gateway that sent readings and then none for so long went quiet; 0: never."
    )
    webhook_url: str = Field(
        "", description="Where each change of an alert is posted, signed after Standard Webhooks; empty: nowhere."
    )
    webhook_secret: SecretStr = Field(
        SecretStr(""),
        description="Secret of the webhook's signature, `whsec_` and 24 to 64 bytes in base64; needed with webhook_url.",
    )
    webhook_private: bool = Field(
        False, description="Allow a webhook_url that leads to a private, loopback or link-local address, or has no TLS."
    )
    archive_chunk_s: float = Field(
        10, gt=0, le=86_400, description="How long readings wait at most before they are packed into archive objects."
    )
    archive_chunk_readings: int = Field(
        200_000, ge=1, le=1_000_000, description="Readings after which a chunk of the archive is packed at once."
    )
    archive_json: bool = Field(False, description="Archive JSON, gzipped, an object for each sensor, instead of Parquet.")
    archive_compact_h: float = Field(
        6, ge=0, le=8_760, description="Hours after its end when a day of the archive is put together in one object; 0: never."
    )
    archives: Annotated[dict[str, Path], NoDecode] = Field(
        {}, description="Archives that can be restored from besides our own: NAME=DIRECTORY of objects, commas between several."
    )
    kafka_servers: str = Field(
        "", description="Kafka brokers, HOST:PORT with commas between: the Log is there; empty: the embedded default."
    )
    kafka_prefix: str = Field(
        "", pattern=r"^[a-zA-Z0-9._-]{0,64}$", description="Begins the name of every Kafka topic and group of this deployment."
    )
    kafka_replication: int = Field(1, ge=1, le=9, description="Copies of each Kafka topic; with 3, 2 must be in sync.")
    rabbitmq_url: SecretStr = Field(
        SecretStr(""), description="RabbitMQ, amqp://USER:PASSWORD@HOST:PORT/VHOST: the Exchange is there."
    )
    rabbitmq_queue_type: str = Field(
        "classic", pattern="^(classic|quorum)$", description="classic: severity first; quorum: for clusters, in order of arrival."
    )
    catalog_url: SecretStr = Field(
        SecretStr(""),
        description="PostgreSQL of the catalog, postgresql://USER:PASSWORD@HOST:PORT/DATABASE; the shards take the same user.",
    )
    shards: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Shards of a new deployment, postgresql://HOST:PORT/DATABASE with commas; later the shard map counts.",
    )
    keep_days: int = Field(
        0,
        ge=0,
        le=36_500,
        description="Days that readings stay in the shards, then only in the archive; 0: for ever. Fixed when it is made.",
    )
    s3_endpoint: str = Field("", description="S3, http(s)://HOST:PORT: the archive is there; empty: a directory.")
    s3_bucket: str = Field("water", description="Bucket of the archive.")
    s3_region: str = Field("us-east-1", description="Region of the bucket.")
    s3_access_key: SecretStr = Field(SecretStr(""), description="Access key of S3; it needs to read, write and list the bucket.")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="Secret key that belongs to s3_access_key.")
    s3_checksums: str = Field(
        "when_supported",
        pattern="^when_(supported|required)$",
        description="when_required for look-alikes of S3 that refuse the checksums of today's clients.",
    )
    reuse_port: bool = Field(
        False, description="Several processes of this machine listen on one grpc_port and share its connections."
    )
    drain_s: float = Field(10, ge=0, le=600, description="How long a stopping server waits for streams and workers to finish.")
    fleet_gateways: int = Field(3, ge=1, le=1000, description="Gateways of the simulated fleet of `wq up`.")
    fleet_sensors: int = Field(200, ge=1, le=1_000_000, description="Sensors of the simulated fleet of `wq up`.")
    fleet_period_s: float = Field(1.0, ge=0.001, le=86_400, description="Seconds between two readings of a simulated sensor.")

    @field_validator("archives", mode="before")
    @classmethod
    def _name_archives(cls, given: object) -> object:
        if not isinstance(given, str):
            return given
        pairs = [pair.strip().partition("=") for pair in given.split(",") if pair.strip()]
        if wrong := [name for name, equals, folder in pairs if not (name and equals and folder)]:
            raise ValueError(f"{wrong[0]!r} names no directory: give NAME=DIRECTORY")
        return {name: folder for name, _, folder in pairs}

    @field_validator("shards", mode="before")
    @classmethod
    def _list_shards(cls, given: object) -> object:
        return tuple(part.strip() for part in given.split(",") if part.strip()) if isinstance(given, str) else given

    @property
    def on_engines(self) -> bool:
        """Whether this deployment stands on engines of its own, not on the embedded default."""
        return bool(self.kafka_servers)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        ports: dict[int, str] = {}
        for name in ("grpc_port", "http_port", "web_port"):
            port = getattr(self, name)
            if port and port in ports:
                raise ValueError(f"{ports[port]} and {name} are both {port}: give one of them another port (0 takes a free one)")
            ports[port] = name
        if self.keep_days and self.future_tolerance_s > FURTHEST_S:
            raise ValueError(f"future_tolerance_s = {self.future_tolerance_s:g}: at most {FURTHEST_S} together with keep_days")
        engines = {
            "kafka_servers": self.kafka_servers,
            "rabbitmq_url": self.rabbitmq_url.get_secret_value(),
            "catalog_url": self.catalog_url.get_secret_value(),
            "s3_endpoint": self.s3_endpoint,
        }
        if any(engines.values()) and (missing := [name for name, value in engines.items() if not value]):
            given = next(name for name, value in engines.items() if value)
            raise ValueError(f"{given} is set, but not {', '.join(missing)}: real engines are used all four, or none")
        return self


def read_settings(file: Path | None, flags: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Settings:
    """The settings, or SetupError that lists every problem at once. A file that is named but missing is a problem; None in
    `flags` means not given."""
    environment = os.environ if environment is None else environment
    problems: list[str] = []
    values = _from_file(file, problems)
    values |= {name: environment[key] for name in Settings.model_fields if (key := f"WQ_{name.upper()}") in environment}
    values |= {name: value for name, value in flags.items() if value is not None}
    try:
        settings = Settings(**values)
    except ValidationError as error:
        problems += [_say(problem["loc"], problem["input"], problem["msg"]) for problem in error.errors()]
    if problems:
        raise SetupError("settings: " + "; ".join(problems))
    return settings


def _say(place: tuple[int | str, ...], value: object, problem: str) -> str:
    name = ".".join(str(part) for part in place)
    if not name:  # of several settings together
        return problem.removeprefix("Value error, ")
    if name in Settings.model_fields and Settings.model_fields[name].annotation is SecretStr:
        return f"{name}: {problem} (what was given is not shown)"
    known = "" if name in Settings.model_fields else "; see docs/settings.md for the names"
    return f"{name} = {value!r}: {problem}{known}"


def _from_file(file: Path | None, problems: list[str]) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError:
        problems.append(f"{file}: no such settings file")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"{file}: {error}")
    return {}
