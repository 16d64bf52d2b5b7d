"""A channel: one way by which people outside hear of changed alerts, and what it is given and may answer."""

from dataclasses import dataclass
from typing import Protocol

from mesh.codec.notices import Announced


@dataclass(frozen=True, slots=True)
class Delivery:
    """One change of an alert for one channel. `message_id` is the same at every try and in no other deployment. `unsure`: an
    earlier try was begun and its end is not known, so that this one may repeat it."""

    alert_id: int
    change: int
    message_id: str
    tries: int
    unsure: bool
    announced: Announced


class NotDelivered(Exception):
    """This try did not get through. `for_good`: no other will, either. `retry_after_s`: not before that, if the other side said
    so. The problem is one line for people and holds no secret."""

    def __init__(self, problem: str, *, for_good: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(problem)
        self.problem = problem
        self.for_good = for_good
        self.retry_after_s = retry_after_s


class Channel(Protocol):
    """`name` is what the database knows it by: it never changes. At most `at_once` deliveries are under way at a time in one
    process, never two of one alert."""

    name: str
    at_once: int

    async def deliver(self, delivery: Delivery) -> None:
        """Returns when the other side has it for certain. Raises NotDelivered. MAY be cancelled at any moment; MUST end by
        itself within 20 s."""
