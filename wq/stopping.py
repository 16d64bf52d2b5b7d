"""How work that a person may stop is awaited."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class Interrupted(Exception):
    """A person asked to stop before the work was done."""


async def unless_set(stop: asyncio.Event, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of the work; cancels it and raises Interrupted when `stop` is set first. Raises what the work raised."""
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            stopped = group.create_task(stop.wait())
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            task.cancel()
            stopped.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    if task.cancelled():
        raise Interrupted
    return task.result()
