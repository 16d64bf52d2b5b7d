"""What could not be read, row by row: how many, and where the first ones are."""

from dataclasses import dataclass, field
from typing import NamedTuple

SHOWN = 10


class UnreadableRow(NamedTuple):
    """A row that was not sent, and why."""

    line: int
    problem: str


@dataclass(slots=True)
class Unreadable:
    """A count, and the first ten by line."""

    count: int = 0
    first: list[UnreadableRow] = field(default_factory=list)

    def add(self, found: list[UnreadableRow], count: int) -> None:
        """Adds rows of one piece of the file, of which `found` has at least the first ten."""
        self.count += count
        if len(self.first) < SHOWN:
            self.first = [*self.first, *sorted(found)][:SHOWN]
