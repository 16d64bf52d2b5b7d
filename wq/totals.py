"""What the ledger says, added up: asked for page by page, and as differences between two moments."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from waterquality.v1.ingest_pb2 import RejectionReason
from waterquality.v1.ledger_pb2 import LedgerEntry


@dataclass(frozen=True, slots=True)
class Totals:
    """Readings that arrived, and what became of them. `refused` is by reason, without zeros."""

    accepted: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    stored: int = 0
    duplicate: int = 0
    conflicting: int = 0
    dead_at_screen: int = 0
    dead_at_record: int = 0
    archived: int = 0
    dead_at_archive: int = 0

    @property
    def sent(self) -> int:
        """Accepted and refused."""
        return self.accepted + sum(self.refused.values())

    @property
    def recorded(self) -> int:
        """What law 1 sets equal to accepted, once everything is passed."""
        return self.stored + self.duplicate + self.conflicting + self.dead_at_screen + self.dead_at_record

    @property
    def kept(self) -> int:
        """The same of the archive, where there is one."""
        return self.archived + self.dead_at_screen + self.dead_at_archive

    def since(self, before: "Totals") -> "Totals":
        """What was added after `before`."""
        reasons = self.refused.keys() | before.refused.keys()
        refused = {reason: self.refused.get(reason, 0) - before.refused.get(reason, 0) for reason in sorted(reasons)}
        return Totals(
            self.accepted - before.accepted,
            {reason: count for reason, count in refused.items() if count},
            self.stored - before.stored,
            self.duplicate - before.duplicate,
            self.conflicting - before.conflicting,
            self.dead_at_screen - before.dead_at_screen,
            self.dead_at_record - before.dead_at_record,
            self.archived - before.archived,
            self.dead_at_archive - before.dead_at_archive,
        )


def total(entries: Iterable[LedgerEntry]) -> Totals:
    """All entries added up."""
    entries = list(entries)
    refused: dict[str, int] = {}
    for entry in entries:
        for each in entry.refused:
            name = reason_name(each.reason)
            refused[name] = refused.get(name, 0) + each.count
    return Totals(
        sum(entry.accepted_count for entry in entries),
        refused,
        sum(entry.stored_count for entry in entries),
        sum(entry.duplicate_count for entry in entries),
        sum(entry.conflicting_count for entry in entries),
        sum(entry.dead_at_screen_count for entry in entries),
        sum(entry.dead_at_record_count for entry in entries),
        sum(entry.archived_count for entry in entries),
        sum(entry.dead_at_archive_count for entry in entries),
    )


def reason_name(reason: RejectionReason.ValueType) -> str:
    """NO_VALUES, IN_THE_FUTURE, ...; the number of a reason that this program does not know."""
    known = RejectionReason.DESCRIPTOR.values_by_number.get(reason)
    return known.name.removeprefix("REJECTION_REASON_") if known else f"REASON_{reason}"
