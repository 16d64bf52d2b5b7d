"""A fault as data: what breaks, for how long, how it is mended; and the kinds of faults that there are."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.faults.deployment import Deployment
from tests.faults.load import Load
from tests.wq.small_disk import fill

Act = Callable[[Deployment, Load], Awaitable[None]]
SLOW_DELAY_S = 0.1
SLOW_BYTES_PER_S = 125_000  # 1 Mbit/s
BALLAST = "ballast"


@dataclass(frozen=True, slots=True)
class Fault:
    """Broken for `away_s` (in the short suite `short_s`). `told`: the mesh must say that something is away meanwhile."""

    name: str
    break_it: Act
    mend_it: Act
    away_s: float = 8.0
    short_s: float = 4.0
    told: bool = False


async def nothing(_: Deployment, __: Load) -> None:
    """Nothing is to be done."""


def killed(name: str, away_s: float = 5.0, *, told: bool = False) -> Fault:
    """kill -9, and after a while started again, as a supervisor does."""

    async def kill(deployment: Deployment, _: Load) -> None:
        await asyncio.to_thread(deployment.kill, name)

    async def start(deployment: Deployment, _: Load) -> None:
        await deployment.start_again(name)

    return Fault(f"kill -9 {name}", kill, start, away_s, min(away_s, 3.0), told)


def paused(name: str, away_s: float = 60.0, short_s: float = 12.0, *, told: bool = True) -> Fault:
    """SIGSTOP, later SIGCONT."""

    async def pause(deployment: Deployment, _: Load) -> None:
        deployment.pause(name)

    async def resume(deployment: Deployment, _: Load) -> None:
        deployment.resume(name)

    return Fault(f"{name} paused", pause, resume, away_s, short_s, told)


def cut(link: str) -> Fault:
    """Connections are reset, new ones refused."""

    async def cut_all(deployment: Deployment, _: Load) -> None:
        for proxy in deployment.links[link]:
            proxy.refuse()
            proxy.cut()

    async def join(deployment: Deployment, _: Load) -> None:
        for proxy in deployment.links[link]:
            proxy.refuse(False)

    return Fault(f"network cut, {link}", cut_all, join, 15.0, 5.0, told=not link.startswith("gateways"))


def slow(link: str) -> Fault:
    """100 ms more each way, 1 Mbit/s."""

    async def slow_down(deployment: Deployment, _: Load) -> None:
        for proxy in deployment.links[link]:
            proxy.delay(SLOW_DELAY_S)
            proxy.limit(SLOW_BYTES_PER_S)

    async def speed_up(deployment: Deployment, _: Load) -> None:
        for proxy in deployment.links[link]:
            proxy.delay(0.0)
            proxy.limit(None)

    return Fault(f"network slow, {link}", slow_down, speed_up, 15.0, 6.0)


def half_open(link: str) -> Fault:
    """Connections stay, and nothing comes through any more."""

    async def hold(deployment: Deployment, _: Load) -> None:
        for proxy in deployment.links[link]:
            proxy.pause()

    async def let_go(deployment: Deployment, _: Load) -> None:
        for proxy in deployment.links[link]:
            proxy.resume()

    return Fault(f"network half-open, {link}", hold, let_go, 20.0, 8.0, told=not link.startswith("gateways"))


def disk_full(name: str) -> Fault:
    """Nothing more can be written to it."""

    async def fill_up(deployment: Deployment, _: Load) -> None:
        await asyncio.to_thread(fill, deployment.disks[name] / BALLAST)

    async def make_room(deployment: Deployment, _: Load) -> None:
        (deployment.disks[name] / BALLAST).unlink()

    return Fault(f"disk full, {name}", fill_up, make_room, 15.0, 6.0, told=True)


def rolling_restart() -> Fault:
    """Every program of ours, one after the other, in order."""

    async def restart_all(deployment: Deployment, _: Load) -> None:
        for name in deployment.programs:
            await deployment.restart(name)

    return Fault("rolling restart", restart_all, nothing, 1.0, 0.0)


def both(first: Fault, second: Fault) -> Fault:
    """The second while the first lasts, mended in the order in which they began."""

    async def break_both(deployment: Deployment, load: Load) -> None:
        await first.break_it(deployment, load)
        await second.break_it(deployment, load)

    async def mend_both(deployment: Deployment, load: Load) -> None:
        await first.mend_it(deployment, load)
        await second.mend_it(deployment, load)

    away_s = min(first.away_s, second.away_s)
    return Fault(f"{first.name} + {second.name}", break_both, mend_both, away_s, min(away_s, 6.0), first.told or second.told)
