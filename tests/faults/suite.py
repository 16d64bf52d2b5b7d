"""Fault after fault in one deployment, and a fresh one after each that left it spoilt: no fault has to answer for another."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from tests.faults.catalogue import faults_of
from tests.faults.deployment import Deployment
from tests.faults.fault import Fault
from tests.faults.run import Row, Say, run_fault

MakeDeployment = Callable[[], AbstractAsyncContextManager[Deployment]]


@dataclass(slots=True)
class Suite:
    """`only`: words, one of which a fault's name must contain. `versions`: known once a deployment was there."""

    make: MakeDeployment
    seed: int
    say: Callable[[str, str], None]
    only: Sequence[str] = ()
    short: bool = False
    versions: dict[str, str] = field(default_factory=dict)

    async def rows(self) -> AsyncIterator[Row]:
        """One row after the other, as they are known."""
        done = 0
        total = 1
        while done < total:
            async with self.make() as deployment:
                faults = self._chosen(deployment)
                total = len(faults)
                self.versions = dict(deployment.versions())
                for number in range(done, total):
                    row = await self._run(deployment, faults[number], number, total)
                    done += 1
                    yield row
                    if row.is_spoilt:
                        break

    def _chosen(self, deployment: Deployment) -> list[Fault]:
        faults = faults_of(deployment, self.seed, short=self.short)
        return [fault for fault in faults if not self.only or any(word in fault.name for word in self.only)]

    async def _run(self, deployment: Deployment, fault: Fault, number: int, total: int) -> Row:
        say: Say = lambda step: self.say(f"{number + 1}/{total} {fault.name}", step)  # noqa: E731
        return await run_fault(deployment, fault, self.seed, number, say, short=self.short)
