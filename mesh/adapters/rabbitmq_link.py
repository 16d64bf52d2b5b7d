"""A connection to RabbitMQ that is opened when it is needed and comes back by itself, with a bounded backoff."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog
from aiormq import Channel
from aiormq.abc import AbstractChannel

from mesh.adapters.rabbitmq_session import OPEN_DEADLINE_S, Address, Session, connect, translated
from mesh.errors import SetupError, Unavailable

BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 2.0
_CLOSED = "this way to RabbitMQ is closed"
_log = structlog.get_logger()


class Link:
    """A session that is opened when it is needed, made ready by `prepare`, and opened again after it broke."""

    def __init__(
        self, address: Address, name: str, prepare: Callable[[Channel], Awaitable[None]], confirms: bool = False
    ) -> None:
        self._address = address
        self._name = name
        self._prepare = prepare
        self._confirms = confirms
        self._session: Session | None = None
        self._opening = asyncio.Lock()
        self._failures = 0
        self._failed: Unavailable | None = None
        self._is_closed = False

    async def channel(self) -> Channel:
        """One that lives, at once where there is one; else after at most 2 s of backoff and some seconds of trying, for which all
        who come meanwhile wait together. Raises Unavailable."""
        if (living := self._living()) is not None:
            return living
        failed_before = self._failed
        async with self._opening:
            if (living := self._living()) is not None:
                return living
            if self._failed is not None and self._failed is not failed_before:
                raise Unavailable(self._failed.message)  # what we waited for was tried, in vain
            session = await self._open_again()
            if self._is_closed:
                await session.end()
                raise Unavailable(_CLOSED)
            self._session = session
            return session.channel

    def cut(self, channel: AbstractChannel) -> None:
        """This one cannot be trusted: where it is still the one that `channel` gives, another is opened next."""
        if self._session is not None and self._session.channel is channel:
            self._session.cut()

    async def close(self) -> None:
        """For good."""
        self._is_closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.end()

    def _living(self) -> Channel | None:
        return self._session.channel if self._session is not None and self._session.is_alive else None

    async def _open_again(self) -> Session:
        if self._is_closed:
            raise Unavailable(_CLOSED)
        if self._session is not None:
            session, self._session = self._session, None
            _log.warning("connection to RabbitMQ lost", link=self._name, where=self._address.where)
            await session.end()
        if self._failures:
            most_s = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2**self._failures)
            await asyncio.sleep(random.uniform(most_s / 2, most_s))
        try:
            session = await self._ready_session()
        except Unavailable as error:
            if not self._failures:
                _log.warning("RabbitMQ is away", link=self._name, problem=error.message)
            self._failures = min(self._failures + 1, 10)
            self._failed = Unavailable(error.message)
            raise
        if self._failures:
            _log.info("RabbitMQ is back", link=self._name)
        self._failures = 0
        return session

    async def _ready_session(self) -> Session:
        try:
            session = await connect(self._address, self._name, self._confirms)
        except SetupError as error:  # it was right when this process started
            raise Unavailable(error.message) from error
        try:
            with translated(f"RabbitMQ at {self._address.where} does not serve {self._name}"):
                async with asyncio.timeout(OPEN_DEADLINE_S):
                    await self._prepare(session.channel)
        except BaseException:
            await session.end()
            raise
        return session
