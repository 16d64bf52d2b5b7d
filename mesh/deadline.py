"""How is a deadline kept by code that takes its time to be cancelled?"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

AGAIN_S = 0.1


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Ends the block with TimeoutError when it takes longer. Then it is cancelled every 0.1 s until it ends: psycopg meets the
    first cancellation by asking the server to stop, and waits up to 10 s for it; at the second it closes the connection."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    before, count = task.cancelling(), 0
    timer: asyncio.TimerHandle

    def wait(delay_s: float) -> None:
        nonlocal timer
        timer = loop.call_later(delay_s, expire)

    def expire() -> None:
        nonlocal count
        count += 1
        task.cancel()
        wait(AGAIN_S)

    wait(seconds)
    try:
        yield
    except asyncio.CancelledError as error:
        if count and task.cancelling() - count <= before:
            raise TimeoutError(f"not done within {seconds:g} s") from error
        raise
    finally:
        timer.cancel()
        for _ in range(count):
            task.uncancel()
