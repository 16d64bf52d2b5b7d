"""Whether Kafka is there, and whether it is still the log that was opened."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import structlog
from confluent_kafka import KafkaException

from mesh.adapters.kafka_admin import Admin
from mesh.adapters.kafka_clients import KafkaSettings
from mesh.adapters.kafka_errors import LOG_REPLACED, away, translated
from mesh.adapters.kafka_topics import described, identity
from mesh.errors import Unavailable
from mesh.topics import TOPICS

_log = structlog.get_logger()
LOOK_S = 5.0
_AGAIN_S = 0.5
READY_S = 8.0


class Watch:
    """Looks at the topics every 5 s, and at once when a connection broke: until then nothing is appended and no record handed
    out, since behind the same address there may be another log. `problem`: why nothing can be done now."""

    def __init__(self, admin: Admin, settings: KafkaSettings, cluster_id: str, log_id: str) -> None:
        self._admin = admin
        self._settings = settings
        self._cluster_id = cluster_id
        self._log_id = log_id
        self._doubts = 0
        self._cleared = 0
        self._look = asyncio.Event()
        self._waiting: set[asyncio.Event] = set()
        self._replaced = False
        self.problem: Unavailable | None = None

    @property
    def doubtful(self) -> bool:
        """True from a broken connection on until the topics were seen to be the same."""
        return self._doubts != self._cleared

    def doubt(self) -> None:
        """A connection of some client broke. From the loop's thread."""
        self._doubts += 1
        self._look.set()

    def replaced(self, what: str) -> Unavailable:
        """Some topic is another one now: nothing more is done with this log."""
        if not self._replaced:
            _log.error("the log in Kafka is another one now", problem=what)
        self._replaced = True
        self.problem = Unavailable(
            f"the log in Kafka at {self._settings.servers} is not the one that was opened any more: {what};"
            " start this process again to go on with the new one",
            reason=LOG_REPLACED,
        )
        self._tell()
        return self.problem

    @contextmanager
    def telling(self, event: asyncio.Event) -> Iterator[None]:
        """The event is set whenever something here has changed."""
        self._waiting.add(event)
        try:
            yield
        finally:
            self._waiting.discard(event)

    async def ready(self, within_s: float = READY_S) -> None:
        """Returns when there is no doubt. Raises Unavailable when Kafka is away or another, or stays doubtful."""
        changed = asyncio.Event()
        with self.telling(changed), suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.doubtful and self.problem is None:
                    changed.clear()
                    await changed.wait()
        if self.problem is not None:
            raise self.problem
        if self.doubtful:
            raise away(f"a connection broke, and its topics could not be looked at since; {self._admin.problem}")

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            asked = self._doubts
            self._look.clear()
            self._admin.listen()
            await self._examine(asked)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S if self.problem is None else _AGAIN_S):
                    await self._look.wait()

    async def _examine(self, asked: int) -> None:
        try:
            there, _ = await described(self._admin, self._settings)
            if missing := [self._settings.named(name) for name in TOPICS if name not in there]:
                raise away(f"topics are missing: {', '.join(missing)}")
        except (Unavailable, KafkaException) as error:
            self._lose(translated(error))
            return
        if self._replaced:
            return
        if identity(self._cluster_id, there) != self._log_id:
            self.replaced("its topics were made again")
            return
        if self.problem is not None:
            _log.info("Kafka is there again", servers=self._settings.servers)
        changed = self.problem is not None or self.doubtful
        self.problem, self._cleared = None, asked
        if changed:
            self._tell()

    def _lose(self, error: Unavailable) -> None:
        if self._replaced:
            return
        if self.problem is None:
            _log.warning("Kafka is away", servers=self._settings.servers, problem=error.message, heard=self._admin.problem)
        self.problem = error
        self._doubts += 1
        self._tell()

    def _tell(self) -> None:
        for event in self._waiting:
            event.set()


@asynccontextmanager
async def watching(watch: Watch) -> AsyncIterator[None]:
    """It looks while the body runs."""
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
