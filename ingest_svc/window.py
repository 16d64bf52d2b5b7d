"""How much one stream may have unacknowledged: it shrinks while the Log is slow and grows back when it is quick again."""

from dataclasses import dataclass

SLOW_US = 2_000_000
QUICK_US = 500_000


@dataclass(frozen=True, slots=True)
class Window:
    """Unacknowledged batches and bytes of one stream."""

    batches: int
    byte_count: int


class Pace:
    """The window of one stream over time. `largest` is what a frame already on its way may still use."""

    def __init__(self, largest: Window) -> None:
        self.largest = largest
        self.now = largest

    def adapt(self, took_us: int) -> Window | None:
        """Judges how long the newest batch took to become durable; the new window, or None where it did not change."""
        batches = self.now.batches
        if took_us > SLOW_US:
            batches = max(1, batches // 2)
        elif took_us < QUICK_US:
            batches = min(self.largest.batches, batches * 2)
        if batches == self.now.batches:
            return None
        self.now = Window(batches, max(1, self.largest.byte_count * batches // self.largest.batches))
        return self.now
