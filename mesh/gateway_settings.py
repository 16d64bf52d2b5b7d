"""What a gateway client is told, and what it tells about itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import grpc

from mesh.errors import SetupError

CLOCK_FAULT_S = 60.0
"""A gateway whose clock differs from the server's by more has a clock fault: its readings may be refused as IN_THE_FUTURE."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Who sends what to whom, and every limit. Raises SetupError for a limit that cannot work.

    A batch is sent when it has `max_batch_readings` (or the server's limit, if lower) or when its oldest reading has waited
    `max_batch_age_s`. Each lane keeps at most `buffer_readings` that are not acknowledged; when they are that many, `send` waits
    ("wait") or the oldest that are not on their way are dropped and counted ("drop_oldest"; a batch that was sent once already
    is dropped whole). A stream must open within `connect_timeout_s`, and must acknowledge something within `ack_timeout_s`
    while anything is unacknowledged, else it is given up and the rest is sent again on a new one, after a wait that
    doubles from `backoff_min_s` to `backoff_max_s` or is what the server asked for. Leaving the gateway waits
    `close_timeout_s` for the last acknowledgement. Without `channel_credentials` nothing is encrypted.
    """

    target: str
    gateway_id: str
    region: str
    max_batch_readings: int = 1000
    max_batch_age_s: float = 0.5
    buffer_readings: int = 1_000_000
    when_full: Literal["wait", "drop_oldest"] = "wait"
    connect_timeout_s: float = 10.0
    ack_timeout_s: float = 30.0
    close_timeout_s: float = 30.0
    backoff_min_s: float = 0.1
    backoff_max_s: float = 5.0
    channel_credentials: grpc.ChannelCredentials | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("max_batch_readings", "buffer_readings"):
            if getattr(self, name) < 1:
                raise SetupError(f"{name} is {getattr(self, name)}, must be at least 1")
        for name in ("connect_timeout_s", "ack_timeout_s", "close_timeout_s", "backoff_min_s"):
            if not getattr(self, name) > 0:
                raise SetupError(f"{name} is {getattr(self, name)}, must be more than 0")
        if self.max_batch_age_s < 0 or self.backoff_max_s < self.backoff_min_s:
            problem = f"max_batch_age_s is {self.max_batch_age_s}, must be 0 or more; backoff_max_s is {self.backoff_max_s}"
            raise SetupError(f"{problem}, must be at least backoff_min_s ({self.backoff_min_s})")
        if self.when_full not in ("wait", "drop_oldest"):
            raise SetupError(f"when_full is {self.when_full!r}, must be 'wait' or 'drop_oldest'")


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """One lane up to now; counts are readings unless named otherwise, and only grow but for `buffered` and `in_flight_batches`.

    handed_over = acknowledged + dropped + buffered, always. `transmitted` counts resends too, so it may exceed them.
    `acknowledged` includes the refused ones, `refused` has them by RejectionReason number. `position` is the newest token of
    this lane, "" before there is one. `window_batches` and `window_bytes` are 0 while no stream is open.
    `clock_drift_s`: our clock minus the server's when the last stream opened.
    """

    handed_over: int
    transmitted: int
    acknowledged: int
    refused: Mapping[int, int]
    dropped: int
    buffered: int
    in_flight_batches: int
    streams: int
    window_batches: int
    window_bytes: int
    position: str
    round_trip_s: float | None
    clock_drift_s: float | None
    last_error: str

    @property
    def accepted(self) -> int:
        """Readings that are durable and were not refused."""
        return self.acknowledged - sum(self.refused.values())

    @property
    def reconnects(self) -> int:
        """Streams opened after the first."""
        return max(0, self.streams - 1)


@dataclass(frozen=True, slots=True)
class GatewayStatistics:
    """Both lanes; the properties add them up."""

    live: LaneStatistics
    backfill: LaneStatistics

    @property
    def handed_over(self) -> int:
        return self.live.handed_over + self.backfill.handed_over

    @property
    def transmitted(self) -> int:
        return self.live.transmitted + self.backfill.transmitted

    @property
    def acknowledged(self) -> int:
        return self.live.acknowledged + self.backfill.acknowledged

    @property
    def accepted(self) -> int:
        return self.live.accepted + self.backfill.accepted

    @property
    def refused(self) -> dict[int, int]:
        """By RejectionReason number (mesh.codec.gateway_frames.reason_names for people)."""
        counts = dict(self.live.refused)
        for reason, count in self.backfill.refused.items():
            counts[reason] = counts.get(reason, 0) + count
        return counts

    @property
    def dropped(self) -> int:
        return self.live.dropped + self.backfill.dropped

    @property
    def buffered(self) -> int:
        return self.live.buffered + self.backfill.buffered

    @property
    def reconnects(self) -> int:
        return self.live.reconnects + self.backfill.reconnects

    @property
    def positions(self) -> tuple[str, ...]:
        """The newest token of each lane that has one: wait for all of them to read everything that was written."""
        return tuple(lane.position for lane in (self.live, self.backfill) if lane.position)

    @property
    def clock_drift_s(self) -> float | None:
        """As of the newest stream of either lane; beyond CLOCK_FAULT_S the gateway's clock is to be mended."""
        return self.live.clock_drift_s if self.live.clock_drift_s is not None else self.backfill.clock_drift_s

    @property
    def last_error(self) -> str:
        """Why a stream ended last, "" when none ever did."""
        return self.live.last_error or self.backfill.last_error


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Readings of one lane that have just become durable, `refused` of them by reason."""

    backfill: bool
    readings: int
    refused: Mapping[int, int]
    position: str
