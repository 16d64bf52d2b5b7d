"""What a person sees while a replay runs: bytes read, readings acknowledged and their rate, readings stored."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from mesh.gateway import Acknowledgement
from wq.formats.station import StationFile
from wq.totals import Totals


class ReplayProgress:
    """Three bars on stderr; nothing when `quiet` or when stderr is no terminal."""

    def __init__(self, files: Sequence[StationFile], quiet: bool) -> None:
        console = Console(stderr=True)
        self._files = files
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            _Amount(),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._read = self._bars.add_task("read", total=max(1, sum(file.size_bytes for file in files)), unit="bytes")
        self._acknowledged = self._bars.add_task("acknowledged", total=None)
        self._stored = self._bars.add_task("stored", total=None, visible=False)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def acknowledged(self, ack: Acknowledgement) -> None:
        """Readings have become durable."""
        self._bars.advance(self._acknowledged, ack.readings)
        self._bars.update(self._read, completed=sum(file.read_bytes for file in self._files))

    def storing(self) -> None:
        """Everything is acknowledged; the stages follow."""
        done = self._bars.tasks[self._acknowledged].completed
        self._bars.update(self._acknowledged, total=done or 1)
        self._bars.update(self._stored, total=done or 1, visible=True)

    def stored(self, change: Totals) -> None:
        """What the ledger has by now."""
        self._bars.update(self._stored, completed=change.recorded + change.sent - change.accepted)


class _Amount(ProgressColumn):
    """Megabytes of megabytes; readings, and readings per second."""

    def render(self, task: Task) -> Text:
        if task.fields.get("unit") == "bytes":
            return Text(f"{task.completed / 1e6:.1f} of {(task.total or 0) / 1e6:.1f} MB", "cyan")
        rate = f", {task.speed:,.0f} /s".replace(",", " ", 1) if task.speed and not task.finished else ""
        return Text(f"{task.completed:,.0f} readings{rate}", "cyan")
