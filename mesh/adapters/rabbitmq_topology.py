"""The exchanges and queues of the mesh in RabbitMQ, by their public names, and how they come to be.

`water` (direct) leads to `high_priority_queue`, `low_priority_queue`, and `medium_priority_queue.<reader>` of each follower.
A task to be tried again waits in `<its queue>.retry_<delay>s`, whose time to live leads it back; dead letters go through
`water.dead` to `dead_tasks`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from aiormq import Channel
from aiormq.exceptions import ChannelAccessRefused, ChannelLockedResource, ChannelPreconditionFailed

from mesh.adapters.rabbitmq_session import Address, Session, connect, problem_of, rights_mend, translated
from mesh.errors import SetupError
from mesh.ports import Priority

WATER = "water"
DEAD = "water.dead"
DEAD_TASKS = "dead_tasks"
MEDIUM_KEY = "medium_priority_queue"
SHARED = {Priority.HIGH: "high_priority_queue", Priority.LOW: "low_priority_queue"}
MOST_SEVERE = 5
DEPTH_LIMIT = 100_000
RETRY_DELAYS_S = tuple(2**i for i in range(11))  # up to 17 minutes
QUEUE_TYPES = ("classic", "quorum")
OLDEST = (3, 10)
_DECLARE_DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue and its one binding."""

    name: str
    arguments: dict[str, Any]
    exchange: str = WATER

    async def declare(self, channel: Channel) -> None:
        """It is there on return; the driver's errors as they are."""
        await channel.queue_declare(self.name, durable=True, arguments=self.arguments)
        await channel.queue_bind(self.name, self.exchange, self.name)


@dataclass(frozen=True, slots=True)
class Topology:
    """`queue_type`: classic (in order of severity), or quorum (survives a node of a cluster; on no severity, only on age);
    `dead_limit`: dead letters that are kept, the newest."""

    queue_type: str
    dead_limit: int

    def shared(self, priority: Priority) -> Queue:
        """The queue of HIGH or LOW tasks. Full, it refuses, so that nothing in it is ever dropped."""
        own = {"x-max-priority": MOST_SEVERE} if self.queue_type == "classic" else {"x-queue-type": "quorum"}
        limits = {"x-max-length": DEPTH_LIMIT, "x-overflow": "reject-publish"}
        return Queue(SHARED[priority], {**own, **limits, "x-dead-letter-exchange": DEAD})

    def waiting(self, priority: Priority) -> Iterator[Queue]:
        """Where its tasks wait to be tried again. Always quorum queues: only those hold a task until it has arrived."""
        for delay_s in RETRY_DELAYS_S:
            yield Queue(
                waiting_name(priority, delay_s),
                {
                    "x-queue-type": "quorum",
                    "x-message-ttl": delay_s * 1000,
                    "x-dead-letter-exchange": WATER,
                    "x-dead-letter-routing-key": SHARED[priority],
                    "x-dead-letter-strategy": "at-least-once",
                    "x-max-length": DEPTH_LIMIT,
                    "x-overflow": "reject-publish",
                },
            )

    def dead(self) -> Queue:
        """The dead letters."""
        own = {"x-queue-type": "quorum"} if self.queue_type == "quorum" else {}
        return Queue(DEAD_TASKS, {**own, "x-max-length": self.dead_limit, "x-overflow": "drop-head"}, DEAD)

    def of(self, priority: Priority) -> Iterator[Queue]:
        """All queues that tasks of HIGH or LOW may go to."""
        yield self.shared(priority)
        yield from self.waiting(priority)
        yield self.dead()


def waiting_name(priority: Priority, delay_s: float) -> str:
    """The queue where a task waits at least this long, at most twice as long; 1,024 s is the longest."""
    longest = RETRY_DELAYS_S[-1]
    return f"{SHARED[priority]}.retry_{next((each for each in RETRY_DELAYS_S if each >= delay_s), longest)}s"


async def declare_exchanges(channel: Channel) -> None:
    """They are there on return; the driver's errors as they are."""
    await channel.exchange_declare(WATER, exchange_type="direct", durable=True)
    await channel.exchange_declare(DEAD, exchange_type="fanout", durable=True)


async def make_topology(address: Address, topology: Topology) -> None:
    """Declares what is missing; safe to repeat, and by several at once. Raises SetupError with everything that is wrong and
    its mend, Unavailable when RabbitMQ does not answer."""
    if topology.queue_type not in QUEUE_TYPES:
        raise SetupError(f"rabbitmq_queue_type is {topology.queue_type!r}: {' or '.join(QUEUE_TYPES)}")
    session = await connect(address, "set-up")
    try:
        _check_version(address, session)
        with translated(f"RabbitMQ at {address.where} cannot be set up"):
            async with asyncio.timeout(_DECLARE_DEADLINE_S):
                problems = await _declare_all(session, address, topology)
    finally:
        await session.end()
    if problems:
        raise SetupError(f"RabbitMQ at {address.where}: " + "; ".join(problems))


def _check_version(address: Address, session: Session) -> None:
    version = session.connection.server_properties.get("version", "")
    numbers = [int(part) for part in str(version).split(".")[:2] if part.isdecimal()]
    if tuple(numbers) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise SetupError(f"RabbitMQ at {address.where} is of version {version!r}: {wanted} or newer is needed")


async def _declare_all(session: Session, address: Address, topology: Topology) -> list[str]:
    problem = await _problem(session, address, "an exchange", "delete it, or use another virtual host", declare_exchanges)
    queues = {queue.name: queue for priority in SHARED for queue in topology.of(priority)}
    problems = [problem]
    for name, queue in queues.items():
        mend = f"remove it when it is empty, by rabbitmqctl delete_queue -p {address.vhost} --if-empty {name}, and start again"
        problems.append(await _problem(session, address, f"queue {name}", mend, queue.declare))
    return list(dict.fromkeys(filter(None, problems)))


async def _problem(
    session: Session, address: Address, what: str, mend: str, declare: Callable[[Channel], Awaitable[None]]
) -> str:
    """What is wrong, or empty. On a channel of its own: a refusal closes it."""
    channel = await session.new_channel()
    try:
        await declare(channel)
    except ChannelPreconditionFailed as error:
        return f"{what} is there with other settings ({problem_of(error)}): {mend}"
    except ChannelLockedResource as error:
        return f"{what} belongs to one connection alone ({problem_of(error)}): end that program, or use another virtual host"
    except ChannelAccessRefused as error:
        return f"{what} may not be set up ({problem_of(error)}): {rights_mend(address)}"
    await channel.close()
    return ""
