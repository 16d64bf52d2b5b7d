"""Was anything lost or doubled? What was sent is compared, value by value, with shards, archive, ledger and alerts."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

import grpc
import numpy as np
from numpy.typing import NDArray

from mesh.errors import from_rpc
from tests.faults.asked import Account, Raised, account_of, alerts_of
from tests.faults.course import Course
from tests.faults.deployment import Deployment
from tests.faults.load import Load
from tests.faults.stored import Stored, read_archive, read_losers, read_shards
from tests.faults.truth import Key, Truth, as_bytes, truth_of
from water.readings import Readings

CAUGHT_UP_WITHIN_S = 120.0
ALARMS_WITHIN_S = 40.0


@dataclass(slots=True)
class Verdict:
    """Counts of readings but for the alarms. `lost`: keys that were acknowledged and are missing in the shards or in the archive,
    or whose other values are not kept as conflicting; `doubled`: rows that are there twice; `problems`: all that is wrong."""

    sent: int = 0
    account: Account = field(default_factory=Account)
    lost: int = 0
    doubled: int = 0
    alarms_expected: int = 0
    alarms_raised: int = 0
    problems: list[str] = field(default_factory=list)

    def say(self, count: int, problem: str) -> int:
        """Notes it where the count is not 0."""
        if count:
            self.problems.append(f"{count} {problem}")
        return count


async def judge(deployment: Deployment, course: Course, load: Load) -> Verdict:
    """At rest: everything was acknowledged before. Waits, bounded, until the mesh has caught up. What it finds is no error."""
    truth = await asyncio.to_thread(truth_of, load.sent, course)
    verdict = Verdict(sent=load.sent_count)
    verdict.account = await account_of(deployment, tuple(load.gateways), CAUGHT_UP_WITHIN_S)
    verdict.problems += verdict.account.problems
    _judge_counts(verdict, load, truth)
    losers, places = await read_losers(deployment.shard_dsns, course)
    shards = await read_shards(deployment.shard_dsns, course)
    archive = await read_archive(deployment, course, places)
    for name, stored in (("shards", shards), ("archive", archive)):
        _judge_rows(verdict, name, stored, truth)
    _judge_losers(verdict, shards.rows, losers, truth)
    await _judge_alarms(verdict, deployment, course, truth)
    return verdict


def _judge_counts(verdict: Verdict, load: Load, truth: Truth) -> None:
    """The ledger against what gateways know; a resend after a reconnect counts again, so more is no fault, less is."""
    account = verdict.account
    verdict.lost += verdict.say(
        max(0, truth.accepted - account.accepted), "readings fewer are accepted by the ledger than acknowledged"
    )
    refused = load.sent_count - truth.accepted
    verdict.say(int(load.refused_count < refused), f"gateways were told of {load.refused_count} refusals, {refused} were due")
    verdict.say(int(account.refused < refused), f"the ledger has {account.refused} refusals, {refused} were due")
    verdict.say(load.dropped_count, "readings were dropped by gateways, which must be slowed")
    verdict.say(account.dead, "readings are dead letters")


def _judge_rows(verdict: Verdict, where: str, stored: Stored, truth: Truth) -> None:
    verdict.doubled += verdict.say(stored.doubled, f"rows are doubled in the {where}")
    index, found = _match(truth.rows, stored.rows)
    verdict.lost += verdict.say(int((~found).sum()), f"keys are missing in the {where}, e.g. {_example(truth.rows, ~found)}")
    verdict.doubled += verdict.say(len(stored.rows) - int(found.sum()), f"rows of the {where} were never sent")
    there = stored.rows.take(index[found])
    wanted = truth.rows.take(np.flatnonzero(found))
    differ = ~((there.values == wanted.values) | (np.isnan(there.values) & np.isnan(wanted.values))).all(axis=0)
    wrong = [at for at in np.flatnonzero(differ).tolist() if not _is_allowed(there, at, truth)]
    verdict.lost += verdict.say(
        len(wrong), f"rows of the {where} have values that should have lost, e.g. {_example(there, wrong)}"
    )
    assert there.flags is not None
    flagged = truth.flags_known[found] & ~differ & (there.flags != truth.flags[found])
    verdict.say(int(flagged.sum()), f"rows of the {where} have other flags than one fold gives, e.g. {_example(there, flagged)}")


def _is_allowed(rows: Readings, at: int, truth: Truth) -> bool:
    """Whether the key was sent by two lanes, and these are values of it."""
    key = int(rows.sensor_id[at]), int(rows.measured_at_us[at])
    contested = np.array([key[0]]) % 1_000 >= 38
    return bool(contested[0]) and as_bytes(rows.values[:, at]) in truth.others.get(key, set())


def _judge_losers(verdict: Verdict, rows: Readings, losers: dict[Key, set[bytes]], truth: Truth) -> None:
    """All values of a key but the stored ones stand in conflicting_readings, and nothing else does."""
    stored = {(int(rows.sensor_id[at]), int(rows.measured_at_us[at])): as_bytes(rows.values[:, at]) for at in range(len(rows))}
    missing = {key for key, values in truth.others.items() if values - {stored.get(key, b"")} != losers.get(key, set())}
    verdict.lost += verdict.say(
        len(missing), f"keys have not all their other values in conflicting_readings, e.g. {_some(missing)}"
    )
    verdict.say(
        len(losers.keys() - truth.others.keys()), f"conflicts were never sent, e.g. {_some(losers.keys() - truth.others.keys())}"
    )


async def _judge_alarms(verdict: Verdict, deployment: Deployment, course: Course, truth: Truth) -> None:
    expected = {Raised(condition, began_us, historical) for condition, (began_us, historical) in truth.alarms.items()}
    deadline_s = monotonic() + ALARMS_WITHIN_S
    raised: list[Raised] = []
    while True:
        try:
            raised = await alerts_of(deployment, course)
            why = ""
        except grpc.aio.AioRpcError as error:
            why = from_rpc(error).message
        if (not why and Counter(raised) == Counter(expected)) or monotonic() > deadline_s:
            break
        await asyncio.sleep(0.2)
    verdict.alarms_expected, verdict.alarms_raised = len(expected), len(raised)
    if why:
        verdict.problems.append(f"alerts: {why}")
    missing, surplus = Counter(expected) - Counter(raised), Counter(raised) - Counter(expected)
    verdict.say(missing.total(), f"alarms are missing, e.g. {_some(missing)}")
    verdict.say(surplus.total(), f"alarms are too many or began at another time, e.g. {_some(surplus)}")


def _match(wanted: Readings, there: Readings) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """For each wanted key (all different) its index in `there`, and whether it is there."""
    place = {key: at for at, key in enumerate(zip(there.sensor_id.tolist(), there.measured_at_us.tolist(), strict=True))}
    index = np.array(
        [place.get(key, -1) for key in zip(wanted.sensor_id.tolist(), wanted.measured_at_us.tolist(), strict=True)], np.intp
    )
    return index, index >= 0


def _example(readings: Readings, which: NDArray[np.bool_] | Sequence[int]) -> str:
    """Sensor and time of the first of them."""
    chosen = readings.take(np.asarray(which)) if len(which) else readings
    return f"sensor {chosen.sensor_id[0]} at {chosen.measured_at_us[0]}" if len(chosen) else "-"


def _some(things: object) -> str:
    return str(next(iter(things), "-"))  # type: ignore[call-overload]
