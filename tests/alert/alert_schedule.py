"""Random histories of a few conditions: what is told of them, in which lane, order and how often; who acts, what crashes."""

from dataclasses import dataclass, replace

from hypothesis import strategies as st

from mesh.codec.tasks import Task
from tests.alert.alerting import a_limit, a_task
from water.condition import Change

CONDITIONS = 3


@dataclass(frozen=True, slots=True)
class Tell:
    """A task is published."""

    task: Task


@dataclass(frozen=True, slots=True)
class Act:
    """A person does something with the alert of this place among those that are there."""

    what: str
    place: int


@dataclass(frozen=True, slots=True)
class Crash:
    """A worker dies and another one starts."""

    worker: int


@dataclass(frozen=True, slots=True)
class Rest:
    """Until no task waits, so that what comes next meets what came before."""


Action = Tell | Act | Crash | Rest


@st.composite
def _episodes(draw: st.DrawFn) -> list[Task]:
    """Everything that there is to tell of some episodes, in order."""
    tasks = []
    for condition in range(draw(st.integers(1, CONDITIONS))):
        make = a_limit if condition == 0 else a_task
        for number in range(draw(st.integers(1, 3))):
            began, name = 20 * number, f"c/{condition}"
            lane = draw(st.sampled_from(["live", "live", "live", "backfill", "both"]))
            told = [make(Change.RAISED, began, 0, condition_id=name, severity=draw(st.integers(1, 3)))]
            for seen in range(draw(st.integers(0, 2))):
                told.append(make(Change.UPDATED, began, seen + 1, condition_id=name, severity=draw(st.integers(1, 5))))
            if draw(st.booleans()):
                told.append(make(Change.CLEARED, began, 9, condition_id=name, severity=draw(st.integers(1, 5))))
            tasks += told if lane != "backfill" else []
            tasks += [replace(task, historical=True) for task in told] if lane != "live" else []
    return tasks


@st.composite
def schedules(draw: st.DrawFn, people: bool) -> list[Action]:
    """The tasks of some episodes in any order, some of them again, with crashes and rests, and what people do, in between."""
    tasks = draw(_episodes())
    again = draw(st.lists(st.sampled_from(tasks), max_size=len(tasks)))
    others: st.SearchStrategy[Action] = st.one_of(st.builds(Crash, st.integers(0, 1)), st.builds(Rest))
    if people:
        acts = st.builds(Act, st.sampled_from(["acknowledge", "resolve", "comment", "acknowledge"]), st.integers(0, 5))
        others = st.one_of(others, acts, acts, acts)
    events: list[Action] = [Tell(task) for task in tasks + again]
    events += draw(st.lists(others, max_size=12))
    return draw(st.permutations(events)) if draw(st.booleans()) else _mostly_in_order(draw, events)


def _mostly_in_order(draw: st.DrawFn, events: list[Action]) -> list[Action]:
    """Each delayed a little."""
    places = [(index + draw(st.integers(0, 4)), index) for index in range(len(events))]
    return [events[index] for _, index in sorted(places)]
