"""One fault run: load, break, mend, recover, judge."""

import asyncio
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from mesh.clock import SystemClock
from tests.faults.asked import put_rule_in_force
from tests.faults.course import TICK_US, Course
from tests.faults.deployment import Deployment
from tests.faults.eyes import Eyes, recovered, watching
from tests.faults.fault import Fault
from tests.faults.judge import Verdict, judge
from tests.faults.load import Load, running_load

GATEWAYS, SHORT_GATEWAYS = 6, 3
BEFORE_S = 5.0
AFTER_S = 4.0
DAY_US = 86_400_000_000
Say = Callable[[str], None]


@dataclass(slots=True)
class Row:
    """A line of the table."""

    fault: str
    seconds: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)
    recovery_s: float | None = None
    silence_s: float = 0.0
    most_mb: int = 0
    said: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    is_spoilt: bool = False
    """Whether what is wrong may still be there in the next run: not where it only took too long."""

    @property
    def passed(self) -> bool:
        return not self.problems


async def run_fault(deployment: Deployment, fault: Fault, seed: int, number: int, say: Say, *, short: bool = False) -> Row:
    """Never raises for what happens to the mesh: the row says it."""
    started_s = monotonic()
    row = Row(fault.name)
    course = Course(seed, number, _start_us(), SHORT_GATEWAYS if short else GATEWAYS)
    try:
        say("rule")
        await put_rule_in_force(deployment, course)
        async with watching(deployment) as eyes:
            async with running_load(course, deployment.ingest) as load:
                await _go_through(deployment, fault, load, eyes, row, say, short=short)
                say("last acknowledgements")
            row.silence_s = max(load.longest_silence_s, 0.0)
            say("judging")
            row.verdict = await judge(deployment, course, load)
        row.most_mb = max(eyes.most_mb.values(), default=0)
        ended = [f"{name} has ended by itself" for name in deployment.programs if name not in deployment.processes()]
        row.problems += [*row.verdict.problems, *eyes.too_big, *ended]
        row.is_spoilt = bool(row.verdict.problems or ended)
    except Exception as error:  # noqa: BLE001 - whatever it is belongs into the table
        row.problems += _told(error)
        row.is_spoilt = True
    row.seconds = monotonic() - started_s
    return row


async def _go_through(deployment: Deployment, fault: Fault, load: Load, eyes: Eyes, row: Row, say: Say, *, short: bool) -> None:
    await load.gets_through(30)
    await _pass(2.0 if short else BEFORE_S)
    say("broken")
    broken_s = monotonic()
    try:
        await fault.break_it(deployment, load)
        await _pass(fault.short_s if short else fault.away_s)
        row.said = eyes.since(broken_s)
    finally:
        await fault.mend_it(deployment, load)
    say("mended")
    row.recovery_s, problem = await recovered(deployment, load)
    if problem:  # whether something is lost is to be known all the same
        row.problems.append(problem)
    if fault.told and not row.said:
        row.problems.append("nothing said that something was away")
    await _pass(2.0 if short else AFTER_S)


async def _pass(seconds: float) -> None:
    """The fault lasts, the load goes on."""
    await asyncio.sleep(seconds)  # not waited for: the length of a fault


def _start_us() -> int:
    """A day ago, at a full minute: no reading of the run is from the future, however long it takes."""
    now_us = SystemClock().now_us()
    return now_us - now_us % TICK_US - DAY_US


def _told(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [line for each in error.exceptions for line in _told(each)]
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({place[0].filename.rpartition('/')[2]}:{place[0].lineno})" if place else ""
    return [f"{type(error).__name__}: {str(error)[:600]}{where}"]
