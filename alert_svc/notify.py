"""The arrow `notify`: changes of alerts, from the outbox to every channel, each delivered once and in its alert's order."""

import asyncio
import random
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from uuid import uuid4

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from alert_svc.channel import Channel, Delivery, NotDelivered
from alert_svc.deliveries import Claimed, Ended, Key, claim, hand_back, hand_out, settle, sweep
from mesh.codec.notices import read_notice
from mesh.errors import InvalidArgument, Unavailable
from mesh.ports import Clock
from mesh.shards import first_error, transaction
from mesh.stages import Progress

STAGE = "notify"
LOOK_EVERY_S = 0.2
AWAY_S = 0.5
TRY_WITHIN_S = 30.0
CLAIMED_S = 60.0  # longer than a try may take, so that two workers never try at once
SWEEP_EVERY_S = 60.0
ENDING_S = 5.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a delivery is tried: pauses that double from `first_s` to `longest_s`, each times 0.5 to 1.5 at random, until
    it was tried `tries` times or `span_s` after it was handed out (Standard Webhooks: several days). What ended is remembered
    for `remembered_s`."""

    first_s: float = 1.0
    longest_s: float = 3600.0
    tries: int = 100
    span_s: float = 3 * 86_400.0
    remembered_s: float = 30 * 86_400.0

    def pause_s(self, tries: int, chance: random.Random) -> float:
        """How long to wait after the tries-th try failed."""
        return min(self.longest_s, self.first_s * 2.0 ** min(tries - 1, 60)) * (0.5 + chance.random())


@dataclass(slots=True)
class _Held:
    """What this life knows of a delivery that it has claimed. `dropped`: it will not be begun."""

    claimed: Claimed
    until_us: int
    begun: bool = False
    dropped: bool = False
    ended: Ended | None = None


class Notify:
    """Takes the notices of the outbox to the channels, in as many processes as one likes.

    A delivery is recorded for each notice and channel, and what is recorded as delivered is never tried again. A try is claimed
    first, so that after a crash it is known which ones may have got through: these are tried again and say so (`unsure`). A
    database that goes away meanwhile is no crash: how a try ended is kept and recorded when it is back. Every change of an alert
    is delivered, also one that a later change has overtaken, and none before an earlier one that is still being tried; a
    delivery that fails holds up nothing but later changes of its alert on its channel. Up to 16 changes of an alert are claimed
    together and delivered one after the other, until one fails. `worker` names the process, as in the
    heartbeat: its new life takes its claims over at once, others wait until they end.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        channels: Sequence[Channel],
        progress: Progress,
        clock: Clock,
        chance: random.Random,
        worker: str,
        patience: Patience | None = None,
    ) -> None:
        self._engine = engine
        self._channels = {channel.name: channel for channel in channels}
        self._progress = progress
        self._clock = clock
        self._chance = chance
        self._worker = worker
        self._life = uuid4().hex  # as an argument it could be one that was there before
        self._patience = patience or Patience()
        self._held: dict[Key, _Held] = {}
        self._news = asyncio.Event()
        self._is_lost = False  # the database may have claims of ours that we do not know of
        self._swept_us = 0
        self._problems: dict[str, str] = {}

    async def run(self) -> None:
        """Runs until cancelled, at any moment; then waits up to 5 s to record what was delivered. Outlives a database that goes
        away meanwhile; raises Unavailable when it is away at the start. Any exception means: start again."""
        await self._give_back()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    for run in await self._turn():
                        group.create_task(self._deliver(run))
                    await self._pause()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from errors
        finally:
            await _to_its_end(self._give_back(), ENDING_S)

    async def _give_back(self) -> None:
        """Between two runs: records what ended, and gives back what was not begun; of the rest nobody knows whether it got
        through. Of an earlier life of this process nothing is known but what it had claimed."""
        begun = [key for key, held in self._held.items() if held.begun and not held.ended]
        async with transaction(self._engine) as connection:
            await settle(connection, self._ended(), self._life, self._clock.now_us())
            await hand_back(connection, self._worker, self._life, (), begun)
        self._held.clear()

    async def _turn(self) -> list[list[_Held]]:
        """Records what ended, takes what is due. What cannot be recorded because the database is away is recorded next time."""
        try:
            await self._record()
            await self._forget()
            fresh = await self._take()  # last: what is taken is begun
        except Unavailable as error:
            self._is_lost = True
            self._say_problem("outbox", error.message)
            await self._clock.sleep(AWAY_S)
            return []
        self._say_problem("outbox", "")
        return fresh

    async def _record(self) -> None:
        ended = self._ended()
        dropped = [key for key, held in self._held.items() if held.dropped]
        if not ended and not dropped and not self._is_lost:
            return
        async with transaction(self._engine) as connection:
            await settle(connection, ended, self._life, self._clock.now_us())
            if dropped or self._is_lost:
                await hand_back(connection, self._worker, self._life, self._held.keys() - set(dropped), ())
        self._is_lost = False
        for key in (*(one.claimed.key for one in ended), *dropped):
            del self._held[key]
        self._progress.handled_count += sum(one.status == "delivered" for one in ended)

    async def _take(self) -> list[list[_Held]]:
        """What is to be delivered one after the other; each of another alert or for another channel."""
        now_us = self._clock.now_us()
        until_us = now_us + round(CLAIMED_S * 1e6)
        claimed: list[Claimed] = []
        async with transaction(self._engine) as connection:
            await hand_out(connection, list(self._channels), now_us)
            for name, channel in self._channels.items():
                busy = {held.claimed.alert_id for key, held in self._held.items() if key.channel == name}
                if free := channel.at_once - len(busy):
                    claimed += await claim(connection, name, free, self._worker, self._life, now_us, until_us)
        if self._clock.now_us() + TRY_WITHIN_S * 1e6 > until_us:
            self._is_lost = True  # the database took so long that the claims could end under a try
            return []
        fresh = [_Held(one, until_us) for one in claimed]
        self._held |= {held.claimed.key: held for held in fresh}
        runs = groupby(fresh, lambda held: (held.claimed.key.channel, held.claimed.alert_id))
        return [list(run) for _, run in runs]

    def _ended(self) -> list[Ended]:
        return [held.ended for held in self._held.values() if held.ended]

    async def _forget(self) -> None:
        now_us = self._clock.now_us()
        if now_us - self._swept_us < SWEEP_EVERY_S * 1e6:
            return
        forgotten_us = now_us - round(self._patience.remembered_s * 1e6)
        hopeless_us = now_us - round(2 * self._patience.span_s * 1e6)
        async with transaction(self._engine) as connection:
            count = await sweep(connection, list(self._channels), forgotten_us, hopeless_us, now_us)
        if not count:  # else there may be more
            self._swept_us = now_us

    async def _pause(self) -> None:
        """Until something has ended, at most as long as news may take."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY_S):
                await self._news.wait()
        self._news.clear()

    async def _deliver(self, run: Sequence[_Held]) -> None:
        """One after the other, until one is to be tried again or the claim is about to end."""
        for held in run:
            if self._clock.now_us() + TRY_WITHIN_S * 1e6 > held.until_us:
                break
            held.begun = True
            held.ended = await self._try(held.claimed)
            self._news.set()
            if held.ended.status == "waiting":
                break
        for held in run:
            held.dropped = not held.begun
        self._news.set()

    async def _try(self, claimed: Claimed) -> Ended:
        try:
            announced = read_notice(claimed.body)
            delivery = Delivery(claimed.alert_id, claimed.change, claimed.message_id, claimed.tries, claimed.unsure, announced)
            async with asyncio.timeout(TRY_WITHIN_S):
                await self._channels[claimed.key.channel].deliver(delivery)
        except NotDelivered as failure:
            return self._failed(claimed, failure)
        except TimeoutError:
            return self._failed(claimed, NotDelivered(f"no end within {TRY_WITHIN_S:g} s"))
        except InvalidArgument as error:
            return self._failed(claimed, NotDelivered(error.message, for_good=True))
        except Exception as error:  # noqa: BLE001 - one notice that breaks a channel must not stop the others
            _log.error("a channel crashed, the notification is tried again", channel=claimed.key.channel, exc_info=error)
            return self._failed(claimed, NotDelivered(f"our own defect: {type(error).__name__}"))
        self._went_through(claimed.key.channel)
        return Ended(claimed, "delivered")

    def _failed(self, claimed: Claimed, failure: NotDelivered) -> Ended:
        """Gives it up, or says when to try again."""
        patience, now_us = self._patience, self._clock.now_us()
        where = {"channel": claimed.key.channel, "alert": claimed.alert_id, "change": claimed.change, "tries": claimed.tries}
        is_over = claimed.tries >= patience.tries or now_us - claimed.opened_us >= patience.span_s * 1e6
        if failure.for_good or is_over:
            _log.warning("a notification was given up", **where, problem=failure.problem)
            self._say_problem(claimed.key.channel, failure.problem)
            return Ended(claimed, "given_up", problem=failure.problem)
        if not self._problems.get(claimed.key.channel):
            _log.warning("notifications do not get through, they are tried again", **where, problem=failure.problem)
        self._say_problem(claimed.key.channel, failure.problem)
        asked_s = min(failure.retry_after_s, patience.longest_s)
        pause_s = max(asked_s, patience.pause_s(claimed.tries, self._chance))
        return Ended(claimed, "waiting", now_us + round(pause_s * 1e6), failure.problem)

    def _went_through(self, channel: str) -> None:
        if self._problems.get(channel):
            _log.info("notifications get through again", channel=channel)
        self._say_problem(channel, "")

    def _say_problem(self, about: str, problem: str) -> None:
        self._problems[about] = problem
        self._progress.problem = "; ".join(f"{name}: {what}" for name, what in self._problems.items() if what)[:500]


async def _to_its_end(work: Coroutine[Any, Any, None], limit_s: float) -> None:
    """Waits for it though we are cancelled, but no longer than that; what goes wrong is logged."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=limit_s)
    finally:
        task.cancel()
    for result in await asyncio.gather(task, return_exceptions=True):
        if result is not None:
            _log.warning("what was notified last could not be recorded", problem=str(result) or type(result).__name__)
