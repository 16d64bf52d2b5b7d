"""What would a resharding do: which slots go where, how many bytes that is, which shards come and which leave?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from mesh.errors import FailedPrecondition, SetupError
from mesh.shard_map import ShardMap, read_map
from mesh.shards import transaction
from query_svc.reshard.journal import Plan, State, read_open_plan
from query_svc.reshard.plan import Move, plan_moves, shards_after
from query_svc.reshard.slot_tables import read_bytes
from query_svc.reshard.steps import is_past

OpenShard = Callable[[str], AsyncEngine]


@dataclass(frozen=True, slots=True)
class Proposal:
    """`moves` in their order, with how far each has come; `bytes_of_slot`: on disk at the source, with indexes. `added`:
    addresses of shards to come, by number; `retiring`: shards to leave. `plan`: it has begun already."""

    wanted: int
    found: ShardMap
    moves: Mapping[Move, State]
    bytes_of_slot: Mapping[int, int]
    added: Mapping[int, str]
    retiring: Sequence[int]
    plan: Plan | None

    @property
    def left(self) -> list[Move]:
        """Moves that are not done."""
        return [move for move, state in self.moves.items() if not is_past(state.step, "opened")]

    @property
    def bytes_left(self) -> int:
        """Of the slots that are to be moved yet."""
        return sum(self.bytes_of_slot.get(move.slot, 0) for move in self.left)


async def propose(catalog: AsyncEngine, open_shard: OpenShard, wanted: int, addresses: Sequence[str]) -> Proposal:
    """To `wanted` shards; changes nothing. New shards are taken from `addresses`, those that are in the map already passed over.
    Goes on with the plan that is open. Raises FailedPrecondition (RESHARDING) when that one leads to another number, SetupError
    when there are too few addresses, InvalidArgument when so many shards cannot be, Unavailable."""
    found = await _map_of(catalog)
    async with transaction(catalog) as connection:
        plan = await read_open_plan(connection)
        rows = (await connection.execute(text("SELECT shard, address FROM shards"))).all()
    if plan is not None:
        must_lead_to(plan, wanted)
        added = {shard: found.addresses[shard] for shard in plan.added if shard in found.addresses}
        proposal = Proposal(wanted, found, plan.moves, {}, added, tuple(plan.retiring), plan)
    else:
        numbers = {str(address): int(shard) for shard, address in rows}
        added = _numbered(found, numbers, wanted, addresses)
        after = shards_after(tuple(found.addresses), tuple(added), wanted)
        moves = dict.fromkeys(plan_moves(found.owner, after), State())
        retiring = [shard for shard in found.addresses if shard not in after]
        proposal = Proposal(wanted, found, moves, {}, added, retiring, None)
    return await _with_bytes(proposal, open_shard)


async def _map_of(catalog: AsyncEngine) -> ShardMap:
    found = await read_map(catalog)
    if found is None:
        raise SetupError("this catalog has no shard map: is it the right catalog_url? `wq migrate` makes a new deployment")
    return found


def must_lead_to(plan: Plan, wanted: int) -> None:
    """Raises FailedPrecondition (RESHARDING) unless this is where the open plan leads."""
    if plan.wanted != wanted:
        done = sum(is_past(state.step, "opened") for state in plan.moves.values())
        message = f"a resharding to {plan.wanted} shards is open, {done} of {len(plan.moves)} slots are moved"
        mend = f"go on with it (wq reshard --to {plan.wanted}), or end it where it is (wq reshard --abort)"
        raise FailedPrecondition(f"{message}: {mend}", reason="RESHARDING")


def _numbered(found: ShardMap, numbers: Mapping[str, int], wanted: int, addresses: Sequence[str]) -> dict[int, str]:
    """A number for each new shard: the one that its address had before it left, else the next that was never used."""
    missing = wanted - len(found.addresses)
    fresh = [address for address in dict.fromkeys(addresses) if address not in found.addresses.values()]
    if len(fresh) < missing:
        problem = f"{wanted} shards are {missing} more than there are, and {len(fresh)} addresses of new ones are given"
        raise SetupError(f"{problem}: name {missing} with --shards, or in the setting `shards`")
    following = count(max(numbers.values(), default=-1) + 1)
    return {numbers[address] if address in numbers else next(following): address for address in fresh[: max(0, missing)]}


async def _with_bytes(proposal: Proposal, open_shard: OpenShard) -> Proposal:
    sizes: dict[int, int] = {}
    for shard in sorted({move.source for move in proposal.left}):
        slots = [move.slot for move in proposal.left if move.source == shard]
        engine = open_shard(proposal.found.addresses[shard])
        async with transaction(engine) as connection:
            sizes |= await read_bytes(connection, slots)
    return Proposal(proposal.wanted, proposal.found, proposal.moves, sizes, proposal.added, proposal.retiring, proposal.plan)
