"""The arrow `raise_alert`: tasks of high priority into episodes and alerts, one alert per condition (law 8)."""

import asyncio
from collections.abc import Callable, Sequence

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from alert_svc import store
from alert_svc.standing import Changes
from alert_svc.story import NoIds, Story
from alert_svc.task_checks import check_task
from mesh.codec.tasks import Task, read_task
from mesh.errors import InvalidArgument, Unavailable
from mesh.ports import Clock, Delivery, Exchange, Priority
from mesh.shards import transaction
from mesh.stages import Progress
from water.condition import Kind

STAGE = "raise_alert"
PREFETCH = 8
RETRY_S = 1.0
AWAY_S = 0.5
_log = structlog.get_logger()


class RaiseAlert:
    """Takes HIGH tasks; those that wait together, at most 8, are one transaction. A task is done after its commit; cancelled
    at any moment, it comes again and changes nothing. Several workers may run at once. Uses one connection.

    A task that cannot be read is buried. When the database is away, tasks are given back, counted, and nothing more is tried
    until it answers; a task that fails for another reason is tried again alone and counted too.
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
        """Runs until cancelled; any exception means: start again. Raises Unavailable when the Exchange is away."""
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
            except* Unavailable as group_error:
                raise group_error.exceptions[0] from group_error

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
        """Those whose effect is durable; the others are settled."""
        readable = [(delivery, task) for delivery in deliveries if (task := await _read(delivery)) is not None]
        try:
            await self.take([task for _, task in readable])
        except Unavailable as error:
            self._progress.problem = error.message
            for delivery, _ in readable:
                await delivery.retry(RETRY_S * delivery.attempt)
            await self._wait_for_database()
            return ()
        except Exception as error:  # noqa: BLE001 - the boundary for tasks that poison what comes with them
            if len(readable) > 1:
                return [each for delivery, _ in readable for each in await self._store([delivery])]
            _log.exception("task failed", error=repr(error), attempt=readable[0][0].attempt)
            await readable[0][0].retry(RETRY_S * readable[0][0].attempt)
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

    async def _wait_for_database(self) -> None:
        while True:
            try:
                async with transaction(self._catalog) as connection:
                    await connection.execute(text("SELECT 1"))
                return
            except Unavailable as error:
                self._progress.problem = error.message
                await self._clock.sleep(AWAY_S)


async def _read(delivery: Delivery) -> Task | None:
    """None: it cannot be read, and is buried."""
    try:
        return check_task(read_task(delivery.body))
    except InvalidArgument as error:
        await delivery.bury(error.message)
        return None
