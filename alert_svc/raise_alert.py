"""The arrow `raise_alert`: tasks of high priority into episodes and alerts, one alert per condition (law 8)."""

import asyncio
from collections.abc import Callable, Sequence

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from alert_svc import store
from alert_svc.standing import Changes
from alert_svc.story import NoIds, Story
from alert_svc.task_checks import check_task
from mesh.codec.tasks import Task, read_task
from mesh.errors import InvalidArgument, Unavailable
from mesh.ports import Clock, Delivery, Exchange, Priority
from mesh.shards import first_error, transaction
from mesh.stages import Progress
from water.condition import Kind

STAGE = "raise_alert"
PREFETCH = 8
RETRY_S = 1.0
RETRY_FACTOR = 8.0  # 10 minutes in all: time to mend what is not the task's fault
_log = structlog.get_logger()


class RaiseAlert:
    """Takes HIGH tasks; those that wait together, at most 8, are one transaction. A task is done after its commit; cancelled
    at any moment, it comes again and changes nothing. Several workers may run at once. Uses one connection.

    A task that cannot be read is buried. When the database is away, tasks are left as they are, uncounted: no outage, however
    long, costs one. A task that fails for another reason is tried again alone, counted, after 1, 8, 64 s and so on.
    """

    def __init__(
        self,
        exchange: Exchange,
        catalog: AsyncEngine,
        progress: Progress,
        clock: Clock,
        committed: Callable[[], None] = lambda: None,
    ) -> None:
        """`committed` is called after each commit, to wake who shows alerts."""
        self._exchange = exchange
        self._catalog = catalog
        self._progress = progress
        self._clock = clock
        self._committed = committed

    async def run(self) -> None:
        """Runs until cancelled; any exception means: start again. Raises Unavailable when Exchange or database are away."""
        taken: asyncio.Queue[Delivery] = asyncio.Queue(PREFETCH)
        stored: asyncio.Queue[Delivery] = asyncio.Queue(PREFETCH)
        async with self._exchange.take(Priority.HIGH, PREFETCH) as tasks:

            async def take() -> None:
                async for delivery in tasks:
                    await taken.put(delivery)

            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(take())
                    group.create_task(self._store_all(taken, stored))
                    group.create_task(self._settle(stored))
            except BaseExceptionGroup as errors:
                raise first_error(errors) from errors

    async def _store_all(self, taken: asyncio.Queue[Delivery], stored: asyncio.Queue[Delivery]) -> None:
        while True:
            deliveries = [await taken.get()]
            while not taken.empty():
                deliveries.append(taken.get_nowait())
            for delivery in await self._store(deliveries):
                await stored.put(delivery)

    async def _settle(self, stored: asyncio.Queue[Delivery]) -> None:
        while True:
            await (await stored.get()).done()

    async def _store(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Those whose effect is durable; the others are settled. Raises Unavailable."""
        readable = [(delivery, task) for delivery in deliveries if (task := await _read(delivery)) is not None]
        if not readable:
            return ()
        try:
            await self.take([task for _, task in readable])
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary for tasks that poison what comes with them
            if len(readable) > 1:
                return [each for delivery, _ in readable for each in await self._store([delivery])]
            ((delivery, _),) = readable
            _log.exception("task failed", error=repr(error), attempt=delivery.attempt)
            await delivery.retry(RETRY_S * RETRY_FACTOR ** (delivery.attempt - 1))
            return ()
        self._progress.handled_count += len(readable)
        self._progress.problem = ""
        return [delivery for delivery, _ in readable]

    async def take(self, tasks: Sequence[Task]) -> Changes:
        """Stores the effect of the tasks in one transaction; what changed by them. Safe to repeat. Raises Unavailable."""
        conditions = [task.condition.condition_id for task in tasks]
        rules = [task.condition.rule_id for task in tasks if task.condition.kind == Kind.LIMIT]
        async with transaction(self._catalog) as connection:
            in_force = await store.lock_conditions(connection, rules, conditions)
            dropped = [rule_id for rule_id in rules if rule_id not in in_force]
            wanted = [task for task in tasks if task.condition.kind != Kind.LIMIT or task.condition.rule_id in in_force]
            found = await store.load(connection, wanted)
            try:
                changes = self._told(found, found.ids, wanted)
            except NoIds:
                changes = self._told(found, [*found.ids, *await store.next_ids(connection, len(wanted))], wanted)
            changes.dropped.update(dropped)
            await store.write(connection, changes)
        for rule_id, count in changes.dropped.items():
            _log.info("tasks dropped, their rule is gone or disabled", rule_id=rule_id, count=count)
        self._committed()
        return changes

    def _told(self, found: store.Found, ids: Sequence[int], tasks: Sequence[Task]) -> Changes:
        story = Story(found.episodes, found.standings, ids, self._clock.now_us())
        for task in tasks:
            story.take(task)
        return story.changes


async def _read(delivery: Delivery) -> Task | None:
    """None: it cannot be read, and is buried."""
    try:
        return check_task(read_task(delivery.body))
    except InvalidArgument as error:
        await delivery.bury(error.message)
        return None
