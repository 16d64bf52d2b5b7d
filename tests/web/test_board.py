"""The board: newest of everything, and what a browser that knows a revision is told."""

import asyncio
import json
from typing import Any

from mesh.clock import ManualClock
from web_svc.board import MOST_GONE, Board, Part


def told(board: Board, revision: int) -> tuple[dict[str, Any], int]:
    frame = board.since(revision)
    return json.loads(frame.content), frame.revision


def test_a_new_browser_is_told_everything_that_is_there(clock: ManualClock) -> None:
    board = Board(clock)
    board.put(Part.READINGS, {"1": '["1",10]', "2": '["2",20]'})
    board.remove(Part.READINGS, ["1"])
    frame, _ = told(board, 0)
    assert frame == {"now_us": clock.now_us(), "reset": True, "readings": [["2", 20]], "gone": []}


def test_a_browser_that_is_behind_is_told_the_newest_of_each_key_and_nothing_twice(clock: ManualClock) -> None:
    board = Board(clock)
    board.put(Part.READINGS, {"1": "1", "2": "1"})
    _, known = told(board, 0)
    for value in range(2, 10):
        board.put(Part.READINGS, {"1": str(value)})
    board.put(Part.ALERTS, {"7": "{}"})
    frame, known = told(board, known)
    assert (frame["reset"], frame["readings"], frame["alerts"], frame["gone"]) == (False, [9], [{}], [])
    frame, again = told(board, known)
    assert (set(frame), again) == ({"now_us", "reset", "gone"}, known)


def test_what_is_put_again_unchanged_is_no_change(clock: ManualClock) -> None:
    board = Board(clock)
    board.put(Part.SITES, {"a": "1"})
    _, known = told(board, 0)
    board.put(Part.SITES, {"a": "1"})
    assert told(board, known)[1] == known


def test_a_browser_is_told_what_is_gone_and_what_came_back(clock: ManualClock) -> None:
    board = Board(clock)
    board.put(Part.ALERTS, {"1": "1", "2": "2"})
    _, known = told(board, 0)
    board.remove(Part.ALERTS, ["1", "2", "3"])
    board.put(Part.ALERTS, {"2": "2"})
    frame, _ = told(board, known)
    assert (frame["gone"], frame["alerts"]) == ([["alerts", "1"]], [2])


def test_a_browser_that_missed_too_much_that_is_gone_begins_anew(clock: ManualClock) -> None:
    board = Board(clock)
    board.put(Part.ALERTS, {str(number): "0" for number in range(MOST_GONE + 2)})
    _, known = told(board, 0)
    board.remove(Part.ALERTS, map(str, range(MOST_GONE + 1)))
    frame, _ = told(board, known)
    assert (frame["reset"], frame["alerts"], frame["gone"]) == (True, [0], [])


def test_browsers_that_know_the_same_share_one_frame(clock: ManualClock) -> None:
    board = Board(clock)
    board.put(Part.READINGS, {"1": "1"})
    known = board.since(0).revision
    board.put(Part.READINGS, {"1": "2"})
    assert board.since(known) is board.since(known)


async def test_everybody_who_waits_wakes_at_a_change_and_when_the_board_closes(clock: ManualClock) -> None:
    board = Board(clock)
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(board.changed(0)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        board.put(Part.SITES, {"a": "1"})
        await asyncio.gather(*waiting)
        late = tasks.create_task(board.changed(board.since(0).revision))
        await asyncio.sleep(0)
        board.close()
        await late
