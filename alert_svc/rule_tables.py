"""The tables of rules, in the schema `alert` of the catalog database."""

from dataclasses import fields, replace
from typing import Any

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, Double, MetaData, SmallInteger, Table, Text, insert, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from alert_svc.rule_defaults import DEFAULT_RULES
from mesh.shards import transaction
from water.rules import Rule, Statistic

METADATA = MetaData(schema="alert")
FIRST_VERSION = 2
"""Of the rule set. Version 1 is the empty one of deployments that are older than rules: readers take only what is greater."""

# A rule's version is its etag too: no two changes of whatever rule have the same.
RULES = Table(
    "rules",
    METADATA,
    Column("rule_id", Text(collation="C"), primary_key=True),
    Column("parameter", SmallInteger, nullable=False),
    Column("statistic", SmallInteger, nullable=False),
    Column("lower_limit", Double),
    Column("upper_limit", Double),
    Column("deadband", Double, nullable=False),
    Column("on_delay_s", Double, nullable=False),
    Column("off_delay_s", Double, nullable=False),
    Column("severity_level", SmallInteger, nullable=False),
    Column("sensor_ids", ARRAY(BigInteger), nullable=False),
    Column("site_ids", ARRAY(Text), nullable=False),
    Column("regions", ARRAY(Text), nullable=False),
    Column("source_type", SmallInteger, nullable=False),
    Column("citation", Text, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("effective_us", BigInteger, nullable=False),
)

# One row: the newest version of the rule set, and the newest that is published.
RULES_VERSION = Table(
    "rules_version",
    METADATA,
    Column("only_row", Boolean, CheckConstraint("only_row"), primary_key=True, server_default=text("true")),
    Column("newest", BigInteger, nullable=False),
    Column("published", BigInteger, nullable=False),
)


async def create_rule_tables(engine: AsyncEngine, now_us: int = 0) -> None:
    """Makes what is missing; when the tables are new, the default rules are in force from `now_us` on, as the first version. What
    a person deleted stays deleted. Safe to repeat and to run from several processes."""
    async with transaction(engine) as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('alert.tables'))"))
        await connection.execute(text("CREATE SCHEMA IF NOT EXISTS alert"))
        await connection.run_sync(METADATA.create_all)
        if (await connection.execute(text(_FIRST), {"version": FIRST_VERSION})).first():
            defaults = [replace(rule, version=FIRST_VERSION, effective_us=now_us) for rule in DEFAULT_RULES]
            await connection.execute(insert(RULES), [rule_columns(rule) for rule in defaults])


def rule_of(row: Row[Any]) -> Rule:
    """The rule of a row of RULES."""
    columns: dict[str, Any] = dict(row._mapping)
    columns |= {name: tuple(columns[name]) for name in _LISTS}
    columns["statistic"] = Statistic(columns["statistic"])
    return Rule(etag=str(columns["version"]), **columns)


def rule_columns(rule: Rule) -> dict[str, Any]:
    """The inverse."""
    columns = {field.name: getattr(rule, field.name) for field in fields(rule) if field.name != "etag"}
    lists = {name: list(columns[name]) for name in _LISTS}
    return columns | lists | {"statistic": int(rule.statistic)}


_LISTS = ("sensor_ids", "site_ids", "regions")
_FIRST = """
INSERT INTO alert.rules_version (newest, published) VALUES (:version, 0) ON CONFLICT DO NOTHING RETURNING newest
"""
