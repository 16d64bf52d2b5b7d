"""Which faults there are for a deployment, in the order in which they are run."""

import random
from collections.abc import Callable, Sequence

from mesh.ports import Priority
from mesh.topics import TOPICS
from tests.faults.deployment import Deployment
from tests.faults.fault import Fault, both, cut, disk_full, half_open, killed, nothing, paused, rolling_restart, slow
from tests.faults.more_faults import a_week_at_once, poison, resends

QUEUES = (Priority.HIGH, Priority.MEDIUM, Priority.LOW)
ZOMBIES = ("screen-1", "record-1")
ZOMBIE_S = 30.0  # three times what a group waits for a member
PAIRS = 3


def faults_of(deployment: Deployment, seed: int, *, short: bool = False) -> list[Fault]:
    """All of them; in the short suite those that need no minute."""
    links: Sequence[Callable[[str], Fault]] = (cut, slow, half_open)
    single = [
        *(killed(name) for name in _one_of_each(deployment.programs)),
        *(killed(name, told=deployment.name != "wq up") for name in _one_of_each(deployment.engines)),
        *(paused(name, told=deployment.name != "wq up") for name in _one_of_each(deployment.engines)),
        *(make(link) for link in deployment.links for make in links),
        *(disk_full(disk) for disk in deployment.disks),
    ]
    zombies = [paused(name, ZOMBIE_S, 15.0, told=False) for name in deployment.programs if name in ZOMBIES]
    outside = [
        Fault("clocks: 10 minutes ahead, 3 months behind", nothing, nothing),
        resends(seed),
        a_week_at_once(20 if short else 100),
        poison(TOPICS, QUEUES),
        rolling_restart(),
    ]
    return [*single, *zombies, *outside, *_pairs(single, seed)]


def _pairs(single: Sequence[Fault], seed: int) -> list[Fault]:
    """Some two at once, of different things, the same for the same seed."""
    chance = random.Random(seed)
    return [both(*chance.sample(single, 2)) for _ in range(PAIRS)]


def _one_of_each(names: Sequence[str]) -> list[str]:
    """Of programs and engines that there are several of (`screen-1`, `screen-2`) the first."""
    return [name for name in names if not name.rpartition("-")[2].isdigit() or name.endswith(("-0", "-1"))]
