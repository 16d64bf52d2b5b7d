"""Refused readings as Rejection messages: in an acknowledgement and in the topic `refused` alike."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from waterquality.v1.ingest_pb2 import Rejection


class Refusal(Protocol):
    """Why some readings of a batch were refused: numbers of RejectionReason and Parameter; no indexes: the whole batch."""

    @property
    def reason(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def parameter(self) -> int: ...
    @property
    def indexes(self) -> Sequence[int]: ...


def write_rejections(refused: Iterable[tuple[int, Refusal]]) -> list[Rejection]:
    """Rejections of (sequence of the batch, refusal) pairs."""
    return [
        Rejection(
            sequence=sequence,
            reason=refusal.reason,  # type: ignore[arg-type]
            parameter=refusal.parameter,  # type: ignore[arg-type]
            reading_count=refusal.count,
            indexes=refusal.indexes,
        )
        for sequence, refusal in refused
    ]
