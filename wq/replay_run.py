"""One replay from start to end: the ledger before, the files, the acknowledgements, the ledger after."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from waterquality.v1.ledger_pb2_grpc import LedgerServiceStub

from mesh.codec.gateway_frames import reason_names
from mesh.errors import Unavailable, WaterError
from mesh.gateway import Gateway, GatewaySettings, GatewayStatistics
from mesh.run import stop_on_signals
from wq.connect import open_aio_channel
from wq.formats.station import StationFile
from wq.proof import Sent, Snapshot, disagreements, settled
from wq.replay_progress import ReplayProgress
from wq.sending import send_files
from wq.stopping import Interrupted, unless_set
from wq.totals import Totals

_BUFFER_READINGS = 200_000
_BATCH_READINGS = 5_000
_GOODBYE_S = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for; `speed` None: as fast as possible; `wait_s` limits each wait for the server."""

    target: str
    gateway_id: str
    region: str
    backfill: bool
    speed: float | None
    wait_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. `ledger` is the change in the ledger, None when it was not compared. `problems` is empty when all is well:
    everything could be read, and the ledger agrees."""

    files: tuple[StationFile, ...]
    sent: Sent
    ledger: Totals | None
    caught_up: bool
    balanced: bool
    interrupted: bool
    problems: tuple[str, ...]


async def run_replay(files: Sequence[StationFile], plan: Plan, quiet: bool) -> Outcome:
    """Sends the files and waits until the ledger has all of it. Ctrl-C waits briefly for what is on its way, and is no error.
    Raises WaterError when the mesh cannot be reached or refuses the stream; once something was acknowledged, it is a problem
    in the outcome instead."""
    stop = asyncio.Event()
    progress = ReplayProgress(files, quiet)
    settings = GatewaySettings(
        plan.target,
        plan.gateway_id,
        plan.region,
        max_batch_readings=_BATCH_READINGS,
        buffer_readings=_BUFFER_READINGS,
        close_timeout_s=_GOODBYE_S,
    )
    gateway = Gateway(settings, on_ack=progress.acknowledged)
    async with open_aio_channel(plan.target) as channel:
        stub = LedgerServiceStub(channel)
        with progress, stop_on_signals(stop):
            try:
                before = await unless_set(stop, _before(stub, plan))
                await _send(files, gateway, plan, stop)
                after = await unless_set(stop, _after(stub, plan, gateway.statistics, before, progress))
            except Interrupted:
                return Outcome(tuple(files), _sent(gateway.statistics), None, False, False, True, ())
            except WaterError as error:
                if not gateway.statistics.acknowledged:
                    raise
                return Outcome(tuple(files), _sent(gateway.statistics), None, False, False, False, (error.message,))
    return _outcome(files, _sent(gateway.statistics), before, after, plan)


async def _before(stub: LedgerServiceStub, plan: Plan) -> Snapshot:
    """The ledger once the pipeline has nothing left of earlier runs, so that all that comes is ours."""
    await settled(stub, plan.gateway_id, (), 0)  # a mesh that is not there is an error at once
    snapshot = await settled(stub, plan.gateway_id, (), plan.wait_s)
    if not snapshot.caught_up:
        raise Unavailable(f"the pipeline did not finish earlier work within {plan.wait_s:g} s", reason="BEHIND")
    return snapshot


async def _send(files: Sequence[StationFile], gateway: Gateway, plan: Plan, stop: asyncio.Event) -> None:
    """Everything acknowledged; or Interrupted, and what was on its way had a moment to be."""
    async with gateway:
        try:
            sending = send_files(files, gateway, backfill=plan.backfill, speed=plan.speed, patience_s=plan.wait_s)
            await unless_set(stop, sending)
        except Interrupted:
            with suppress(WaterError):
                await gateway.flush(_GOODBYE_S)
            raise


async def _after(
    stub: LedgerServiceStub, plan: Plan, statistics: GatewayStatistics, before: Snapshot, progress: ReplayProgress
) -> Snapshot:
    """The ledger once every stage has passed what we sent."""
    progress.storing()
    return await settled(
        stub, plan.gateway_id, statistics.positions, plan.wait_s, lambda totals: progress.stored(totals.since(before.totals))
    )


def _sent(statistics: GatewayStatistics) -> Sent:
    return Sent(
        statistics.handed_over,
        statistics.transmitted,
        statistics.acknowledged,
        reason_names(statistics.refused),
        statistics.reconnects,
    )


def _outcome(files: Sequence[StationFile], sent: Sent, before: Snapshot, after: Snapshot, plan: Plan) -> Outcome:
    change = after.totals.since(before.totals)
    problems = [f"{file.path}: {file.problem}" for file in files if file.problem]
    if after.caught_up:
        problems += disagreements(sent, change, after.balanced)
    else:
        later = f"run `wq ledger --gateway {plan.gateway_id}` later"
        problems.append(f"the pipeline did not catch up within {plan.wait_s:g} s: {later}")
    return Outcome(tuple(files), sent, change, after.caught_up, after.balanced, False, tuple(problems))
