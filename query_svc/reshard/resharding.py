"""A resharding as a whole: begun, gone on with wherever an earlier run was killed, ended, or put back."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.errors import FailedPrecondition, Unavailable, WaterError
from mesh.ports import Clock
from mesh.shard_map import LOOK_EVERY_S, read_map
from mesh.shards import transaction
from query_svc.reshard.freezing import thaw
from query_svc.reshard.journal import Journal, Plan, State
from query_svc.reshard.new_shards import Prepare, all_ready
from query_svc.reshard.passes import BEGINS_AGAIN, Ground
from query_svc.reshard.plan import Move
from query_svc.reshard.proposal import OpenShard, must_lead_to, propose
from query_svc.reshard.removal import put_back
from query_svc.reshard.retiring import STEPS as RETIRING
from query_svc.reshard.retiring import Leaving, retire
from query_svc.reshard.steps import STEPS, drop, is_past
from query_svc.reshard.throttle import MOST_PAUSE_S, Throttle

_log = structlog.get_logger()
SEEN_S = LOOK_EVERY_S + 0.2
"""How long both shards answer after the map has changed: all processes have looked at it meanwhile, so that hardly a query asks
the old one in vain and begins again. The slot is not written for so much longer."""
GRACE_S = 3.0
"""How long a slot stays where it was, for those who have not seen the newer map yet; they look once a second."""
MOST_TRIES = 3
DROP_TRIES = 30
_DROPPED = STEPS[-1].name


class Watch(Protocol):
    """Who is told how it goes."""

    def reached(self, what: str, number: int, step: str, phase: str) -> None:
        """`what` is slot, shard or plan; `phase`: begins, done (not noted in the catalog yet), noted."""

    def copied(self, count: int) -> None:
        """So many bytes more."""


@dataclass(frozen=True, slots=True)
class Report:
    """What has come of it, over all runs of the plan. `longest_freeze_us`: for which a slot took no readings; `longest_cut_us`:
    in which two shards answered for it. `retired`: addresses of databases that are empty now."""

    slots: int
    rows: int
    copied_bytes: int
    longest_freeze_us: int
    longest_cut_us: int
    retired: Sequence[str]


@dataclass(frozen=True, slots=True)
class Means:
    """What a resharding works with. `patience_s`: how long to wait for the export of what a leaving shard has."""

    catalog: AsyncEngine
    open_shard: OpenShard
    prepare: Prepare
    throttle: Throttle
    clock: Clock
    watch: Watch
    patience_s: float = 60.0


class Resharding:
    """Made anew for each run, while the journal is open."""

    def __init__(self, journal: Journal, means: Means) -> None:
        self._journal = journal
        self._means = means
        self._clock = means.clock
        self._states: dict[Move, State] = {}
        self._opened: list[tuple[Move, int]] = []

    async def run(self, wanted: int, addresses: Sequence[str]) -> Report:
        """There are `wanted` shards with equal numbers of slots on return. Raises as `propose`; Conflict (SLOT_DIFFERS) when a
        slot is not the same after its copy, Unavailable when a database is away: whatever is raised, run it again to go on."""
        plan = await self._journal.open_plan()
        if plan is None:
            plan = await self._begin(wanted, addresses)
        must_lead_to(plan, wanted)
        ground, addresses_of = await self._ground()
        self._states = dict(plan.moves)
        for move, state in plan.moves.items():
            await self._leave_in_peace(ground, move, state)
            await self._advance(ground, plan, move)
            await self._drop_due(ground, plan)
        await self._drop_all(ground, plan)
        await self._retire(ground, plan, plan.retiring)
        await self._journal.end(plan)
        self._means.watch.reached("plan", plan.number, "ended", "noted")
        return self._report([addresses_of[shard] for shard in plan.retiring])

    async def abort(self) -> Report:
        """No plan is open on return: slots that are in the map of their new shard go on to it, the others are back where they
        were, and new shards without slots have left. Raises FailedPrecondition when none is open."""
        plan = await self._journal.open_plan()
        if plan is None:
            raise FailedPrecondition("no resharding is open: there is nothing to abort", reason="NOT_RESHARDING")
        ground, addresses_of = await self._ground()
        self._states = dict(plan.moves)
        for move, state in plan.moves.items():
            if is_past(state.step, "mapped"):
                await self._advance(ground, plan, move)
                continue
            self._means.watch.reached("slot", move.slot, "put back", "begins")
            await put_back(ground, move)
            await self._journal.drop_move(plan, move)
            self._means.watch.reached("slot", move.slot, "put back", "noted")
            del self._states[move]
        await self._drop_all(ground, plan)
        leaving = await self._without_slots(plan)
        await self._journal.add_retiring(plan, leaving)
        begun = {shard: step for shard, step in plan.retiring.items() if step in RETIRING}
        await self._retire(ground, plan, dict.fromkeys(leaving, "planned") | begun)
        await self._journal.end(plan, aborted=True)
        self._means.watch.reached("plan", plan.number, "aborted", "noted")
        return self._report([addresses_of[shard] for shard in {*leaving, *begun}])

    async def _begin(self, wanted: int, addresses: Sequence[str]) -> Plan:
        """The plan is open, and its new shards are ready."""
        means = self._means
        proposal = await propose(means.catalog, means.open_shard, wanted, addresses)
        fresh = [(address, means.open_shard(address)) for address in proposal.added.values()]
        await all_ready(fresh, len(proposal.found.owner), means.prepare)
        await self._journal.begin(wanted, tuple(proposal.moves), proposal.added, proposal.retiring)
        plan = await self._journal.open_plan()
        assert plan is not None
        means.watch.reached("plan", plan.number, "begun", "noted")
        return plan

    async def _ground(self) -> tuple[Ground, Mapping[int, str]]:
        means = self._means
        async with transaction(means.catalog) as connection:
            rows = (await connection.execute(text("SELECT shard, address FROM shards"))).all()
        found = await read_map(means.catalog)
        assert found is not None
        addresses = {int(shard): str(address) for shard, address in rows}
        engines = {shard: means.open_shard(address) for shard, address in addresses.items()}
        return Ground(len(found.owner), engines, means.throttle, means.clock, means.watch.copied), addresses

    async def _advance(self, ground: Ground, plan: Plan, move: Move) -> None:
        """The slot is the target's on return. What cannot go on begins again."""
        for left in reversed(range(MOST_TRIES)):
            try:
                await self._steps(ground, plan, move)
                return
            except WaterError as error:
                if error.reason not in BEGINS_AGAIN or not left:
                    raise
                _log.warning("the move of a slot begins again", slot=move.slot, problem=error.message)

    async def _steps(self, ground: Ground, plan: Plan, move: Move) -> None:
        state = self._states[move]
        for step in STEPS[:-1]:
            if is_past(state.step, step.name):
                continue
            if step.name == "released":
                await self._clock.sleep(SEEN_S)
            self._means.watch.reached("slot", move.slot, step.name, "begins")
            try:
                after = replace(await step.do(ground, move, state), step=step.name)
                self._means.watch.reached("slot", move.slot, step.name, "done")
            except BaseException as error:
                with suppress(WaterError):
                    await self._let_write(ground, plan, move, step.name, getattr(error, "reason", ""))
                raise
            await self._note(plan, move, after, maps=step.maps)
            state = after
        if state.step != _DROPPED:
            self._opened.append((move, self._clock.now_us()))

    async def _let_write(self, ground: Ground, plan: Plan, move: Move, step: str, reason: str) -> None:
        """Nobody is to wait for a slot because its move cannot go on now. First noted, then done: who has lost the lock of the
        journal changes nothing any more."""
        if is_past(step, "mapped"):
            return
        if step == "attached" or reason in (*BEGINS_AGAIN, "SLOT_DIFFERS"):
            await self._note(plan, move, State())
            await put_back(ground, move)
        elif is_past(step, "frozen"):
            await self._note(plan, move, replace(self._states[move], step="followed", freeze_us=0))
            await thaw(ground.engines[move.source], move.slot)

    async def _note(self, plan: Plan, move: Move, after: State, *, maps: bool = False) -> None:
        await self._journal.passed(plan, move, self._states[move], after, maps=maps)
        self._states[move] = after
        self._means.watch.reached("slot", move.slot, after.step, "noted")

    async def _drop_due(self, ground: Ground, plan: Plan) -> None:
        """Slots that have been elsewhere for a while are dropped where they were; one that is read there stays for later."""
        due_us = self._clock.now_us() - round(GRACE_S * 1e6)
        for move, opened_us in [each for each in self._opened if each[1] <= due_us]:
            self._means.watch.reached("slot", move.slot, _DROPPED, "begins")
            try:
                state = await drop(ground, move, self._states[move])
            except Unavailable as error:
                _log.info("a slot cannot be dropped yet", slot=move.slot, problem=error.message)
                continue
            self._means.watch.reached("slot", move.slot, _DROPPED, "done")
            await self._note(plan, move, replace(state, step=_DROPPED))
            self._opened.remove((move, opened_us))

    async def _drop_all(self, ground: Ground, plan: Plan) -> None:
        for _ in range(DROP_TRIES):
            await self._drop_due(ground, plan)
            if not self._opened:
                return
            await self._clock.sleep(GRACE_S / 2)
        slots = ", ".join(str(move.slot) for move, _ in self._opened)
        raise Unavailable(f"slots {slots} are still read where they were: run it again to drop them there", reason="LOCKED")

    async def _retire(self, ground: Ground, plan: Plan, leaving: Mapping[int, str]) -> None:
        found = await read_map(self._means.catalog)
        assert found is not None
        owner = {slot: ground.engines[int(shard)] for slot, shard in enumerate(found.owner)}
        means = self._means
        for shard, step in leaving.items():
            of = Leaving(shard, ground.engines[shard], owner, means.throttle, means.clock, means.patience_s, means.watch.copied)
            await retire(
                of, self._journal, plan, step, lambda number, name, phase: means.watch.reached("shard", number, name, phase)
            )

    async def _without_slots(self, plan: Plan) -> list[int]:
        found = await read_map(self._means.catalog)
        assert found is not None
        return [shard for shard in plan.added if shard in found.addresses and shard not in found.owner]

    async def _leave_in_peace(self, ground: Ground, move: Move, state: State) -> None:
        """Before a slot is copied its source has as long for others as their transactions take, at most 5 s."""
        if is_past(state.step, "copied"):
            return
        async with transaction(ground.engines[move.source]) as connection:
            oldest_s = float((await connection.execute(text(_OLDEST))).scalar_one())
        await self._clock.sleep(min(MOST_PAUSE_S, oldest_s))

    def _report(self, retired: Iterable[str]) -> Report:
        states = [state for state in self._states.values() if is_past(state.step, "opened")]
        return Report(
            len(states),
            sum(state.row_count for state in states),
            sum(state.copied_bytes for state in states),
            max((state.freeze_us for state in states), default=0),
            max((state.cut_us for state in states), default=0),
            tuple(retired),
        )


_OLDEST = """
SELECT greatest(0, coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
