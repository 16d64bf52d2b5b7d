"""Law 11: however many streams there are, only so many batches are decoded while the Log is slow."""

import asyncio

import pytest

from ingest_svc.room import Room
from mesh.errors import Unavailable


async def test_a_batch_waits_for_a_place_and_takes_it_in_the_order_of_asking() -> None:
    room, order, arrived, leave = Room(1, 20.0), list[str](), asyncio.Event(), asyncio.Event()

    async def stay(name: str) -> None:
        async with room:
            order.append(name)
            arrived.set()
            await leave.wait()

    async with asyncio.TaskGroup() as tasks:
        for name in ("first", "second", "third"):
            tasks.create_task(stay(name))
        await arrived.wait()
        assert order == ["first"]
        leave.set()
    assert order == ["first", "second", "third"]


async def test_a_batch_that_finds_no_place_in_time_is_told_to_come_again() -> None:
    room = Room(1, 0.02)
    async with room:
        with pytest.raises(Unavailable, match="resend") as caught:
            await room.__aenter__()
        assert caught.value.reason == "LOG_UNAVAILABLE"
    async with room:
        pass


async def test_a_batch_that_is_refused_gives_its_place_back() -> None:
    room = Room(1, 0.02)
    with pytest.raises(ValueError, match="broken"):
        async with room:
            raise ValueError("broken frame")
    async with room:
        pass
