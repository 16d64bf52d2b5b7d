"""RuleService on a real gRPC server, over a database, a Log and a catalog of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from sqlalchemy.ext.asyncio import AsyncEngine
from waterquality.v1 import log_pb2, rule_pb2, rule_pb2_grpc

from alert_svc import tables
from alert_svc.known_sites import KnownSites
from alert_svc.outbox import create_outbox
from alert_svc.rule_service import RuleService
from alert_svc.rule_tables import create_rule_tables
from alert_svc.rules import Rules
from alert_svc.rules_owner import RulesOwner
from mesh.adapters.directory import DirectoryObjects
from mesh.adapters.postgres_log import PostgresLog, open_postgres_log
from mesh.clock import SystemClock
from mesh.codec.log_records import ContextChange, ContextKind, read_accepted
from mesh.context import Publisher
from mesh.errors import WaterError, from_rpc
from mesh.ports import Partition
from mesh.shards import open_engine
from mesh.stages import Progress
from mesh.topics import ACCEPTED, BACKFILL, CONTEXTS
from query_svc import catalog_tables
from query_svc.catalog import CatalogOwner
from query_svc.sites import Sites
from tests.conftest import START_US, FreshDatabase

CHANGES = Partition(CONTEXTS, 0)


@dataclass(slots=True)
class RuleServing:
    """A stub of the service, and what stands behind it. Nothing publishes by itself."""

    stub: "rule_pb2_grpc.RuleServiceAsyncStub"
    target: str
    rules: Rules
    sites: Sites
    known: KnownSites
    catalog_publisher: Publisher
    publisher: Publisher
    engine: AsyncEngine
    log: PostgresLog
    objects: DirectoryObjects

    async def set(self, rule: rule_pb2.Rule) -> rule_pb2.Rule:
        return (await self.stub.SetRule(rule_pb2.SetRuleRequest(rule=rule))).rule

    async def refused(self, rule: rule_pb2.Rule) -> WaterError:
        return await error_of(self.stub.SetRule(rule_pb2.SetRuleRequest(rule=rule)))

    async def ids(self) -> list[str]:
        return [rule.rule_id for rule in (await self.stub.ListRules(rule_pb2.ListRulesRequest(page_size=1000))).rules]

    async def changes(self, kind: ContextKind, partition: Partition = CHANGES) -> list[ContextChange]:
        """What a partition says of this kind, in order."""
        found = [read_accepted(stored.record.value) for stored in await self.log.read(partition, 0, 1000)]
        return [change for change in found if isinstance(change, ContextChange) and change.kind == kind]

    async def everywhere(self) -> list[int]:
        """The published versions, which must be the same in every partition."""
        lanes = [Partition(topic, number) for topic in (ACCEPTED, BACKFILL) for number in range(4)]
        found = [await self.changes(ContextKind.RULES, partition) for partition in (CHANGES, *lanes)]
        assert all(changes == found[0] for changes in found)
        return [change.version for change in found[0]]

    async def published(self) -> list[rule_pb2.Rule]:
        """The newest rule set in the Log."""
        *_, change = await self.changes(ContextKind.RULES)
        return list(log_pb2.RulesContext.FromString(await self.objects.get(change.object_path)).rules)


@asynccontextmanager
async def rule_serving(fresh_database: FreshDatabase, objects: DirectoryObjects) -> AsyncIterator[RuleServing]:
    clock, url = SystemClock(), await fresh_database()
    engine = open_engine(url, 8)
    await catalog_tables.create_tables(engine)
    await create_alert_tables(engine)
    server = grpc.aio.server()
    try:
        async with open_postgres_log(url, 4, clock) as log:
            known = KnownSites(log, objects, Progress("sites"), clock)
            rules = Rules(engine, known, clock)
            rule_pb2_grpc.add_RuleServiceServicer_to_server(RuleService(rules), server)
            target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            catalog_publisher = Publisher(CatalogOwner(engine), log, objects, Progress("contexts"), clock)
            publisher = Publisher(RulesOwner(engine), log, objects, Progress("rules"), clock)
            async with grpc.aio.insecure_channel(target) as channel:
                stub: rule_pb2_grpc.RuleServiceAsyncStub = rule_pb2_grpc.RuleServiceStub(channel)
                sites = Sites(engine, clock)
                yield RuleServing(stub, target, rules, sites, known, catalog_publisher, publisher, engine, log, objects)
            await server.stop(0)
    finally:
        await server.stop(0)
        await engine.dispose()


async def create_alert_tables(engine: AsyncEngine) -> None:
    """As every start does, also from several processes at once."""
    await asyncio.gather(*(create_rule_tables(engine, START_US) for _ in range(3)), tables.create_tables(engine))
    await create_outbox(engine)


def a_rule(rule_id: str = "r", **fields: object) -> rule_pb2.Rule:
    """A rule that can be kept, unless told otherwise."""
    given = {"parameter": 2, "upper_limit": 5.0} | fields
    return rule_pb2.Rule(rule_id=rule_id, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


async def error_of(call: Awaitable[object]) -> WaterError:
    """The error that a call ends with."""
    try:
        await call
    except grpc.RpcError as error:
        return from_rpc(error)
    raise AssertionError("the call should have failed")
