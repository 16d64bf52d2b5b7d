"""Questions to Kafka that no producer or consumer answers: what there is, how far it goes, and what to make or drop."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from mesh.adapters.kafka_clients import REQUEST_TIMEOUT_S, KafkaSettings, client_config
from mesh.adapters.kafka_errors import away, error_of, told, translated

K = TypeVar("K")
V = TypeVar("V")
_AGAIN_S = 0.1
_PASSING = (  # of a leader that has just become one, or is one no more
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
)


class Admin:
    """One client for all questions. `problem`: what it was told last by the driver, in words; `refused`: that credentials or
    certificates are wrong."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.problem = ""
        self.refused = ""
        self.client = AdminClient(client_config(settings, self._on_error))

    async def answers(
        self, asked: Mapping[K, "Future[V]"], within_s: float = REQUEST_TIMEOUT_S + 2
    ) -> dict[K, V | KafkaException]:
        """Waits for all of them: the answer, or what was wrong with the question. Raises Unavailable when one does not come."""
        try:
            async with asyncio.timeout(within_s):
                await _all_done(asked)
        except TimeoutError:
            raise away(f"no answer within {within_s:.0f} s; {self.problem}") from None
        found: dict[K, V | KafkaException] = {}
        for key, future in asked.items():
            error = future.exception()
            if error is None:
                found[key] = future.result()
            elif isinstance(error, KafkaException):
                found[key] = error
            else:
                raise error
        return found

    async def offsets(self, wanted: Mapping[TopicPartition, OffsetSpec]) -> dict[tuple[str, int], int]:
        """An offset for each; partitions that have no leader at the moment are asked for again. Raises Unavailable."""
        left, found = dict(wanted), dict[tuple[str, int], int]()
        deadline_s = asyncio.get_running_loop().time() + REQUEST_TIMEOUT_S
        while left:
            answers = await self.answers(self.client.list_offsets(left, request_timeout=REQUEST_TIMEOUT_S))
            for place, answer in answers.items():
                if not isinstance(answer, KafkaException):
                    found[place.topic, place.partition] = answer.offset
                    continue
                error = error_of(answer)
                late = asyncio.get_running_loop().time() > deadline_s
                if late or error is None or not (error.retriable() or error.code() in _PASSING):
                    raise translated(answer)
            left = {place: spec for place, spec in left.items() if (place.topic, place.partition) not in found}
            if left:
                await asyncio.sleep(_AGAIN_S)
        return found

    def listen(self) -> None:
        """Hears what the driver has to say, without waiting."""
        self.client.poll(0)

    def _on_error(self, error: KafkaError) -> None:
        self.problem = told(error)
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL):
            self.refused = self.problem


@asynccontextmanager
async def administration(settings: KafkaSettings) -> AsyncIterator[Admin]:
    """A client for questions, closed on leaving."""
    admin = Admin(settings)
    try:
        yield admin
    finally:
        held = [admin.client]
        del admin.client
        await asyncio.to_thread(held.clear)  # its end waits for its threads


async def _all_done(asked: Mapping[K, "Future[V]"]) -> None:
    """Returns when all are done; the loop is woken once, not once for each."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    lock, left = threading.Lock(), len(asked)

    def one_less(_future: "Future[V]") -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last:
            with suppress(RuntimeError):  # the loop has ended: nobody waits
                loop.call_soon_threadsafe(done.set)

    for future in asked.values():
        future.add_done_callback(one_less)
    if asked:
        await done.wait()
