"""The table of a suite: on the terminal, and as the page docs/reliability.md."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.table import Table

from tests.faults.run import Row
from wq.show import count, make_table

NUMBERS = (
    "seconds", "sent", "refused", "stored", "duplicate", "conflicting", "archived", "lost", "doubled", "alarms expected",
    "raised", "recovered after s", "longest without ack s", "most MB",
)  # fmt: skip
ROOT = Path(__file__).parents[2]


def shown(rows: Sequence[Row]) -> Table:
    """For the terminal."""
    table = make_table(["fault", ""], [name.replace(" ", "\n") for name in NUMBERS])
    for row in rows:
        table.add_row(row.fault, "[green]ok[/]" if row.passed else "[bold red]FAILED[/]", *_cells(row))
    return table


def page(rows: Sequence[Row], seed: int, command: str, versions: Mapping[str, str], shape: str) -> str:
    """The whole page."""
    failed = [row for row in rows if not row.passed]
    lines = [
        "# Nothing lost: the fault suite",
        "",
        f"Written by `{command}`; not by hand. {len(rows)} faults, {len(failed)} failed. Seed {seed}, "
        f"{datetime.now(UTC):%Y-%m-%d}, {_machine()}; {', '.join(f'{name} {version}' for name, version in versions.items())}.",
        "",
        *_WHAT_IT_MEANS.format(shape=shape).splitlines(),
        "",
        "| fault | " + " | ".join(NUMBERS) + " |",
        "|---|" + "---:|" * len(NUMBERS),
        *(f"| {row.fault}{'' if row.passed else ' **FAILED**'} | " + " | ".join(_cells(row)) + " |" for row in rows),
        "",
    ]
    if failed:
        lines += ["## What failed", ""]
        lines += [f"- **{row.fault}**: {'; '.join(row.problems)}" for row in failed]
        lines.append("")
    lines += ["## What the mesh said meanwhile", "", *(f"- **{row.fault}**: {_said(row)}" for row in rows if row.said), ""]
    return "\n".join(lines)


def versions_of(deployment: Mapping[str, str]) -> dict[str, str]:
    """Ours, and what the deployment is made of."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {"commit": done.stdout.strip() or "unknown", "Python": platform.python_version(), **deployment}


def _cells(row: Row) -> list[str]:
    verdict = row.verdict
    account = verdict.account
    numbers = (
        verdict.sent, account.refused, account.stored, account.duplicate, account.conflicting, account.archived, verdict.lost,
        verdict.doubled, verdict.alarms_expected, verdict.alarms_raised,
    )  # fmt: skip
    recovery = "-" if row.recovery_s is None else f"{row.recovery_s:.1f}"
    return [f"{row.seconds:.0f}", *map(count, numbers), recovery, f"{row.silence_s:.1f}", count(row.most_mb)]


def _said(row: Row) -> str:
    """The first words of what was wrong, on one line, without what differs from run to run."""
    first = [" ".join(problem.split())[:160] for problem in row.said[:2]]
    return "; ".join(f"`{each.replace('`', '')}`" for each in first) + (
        f" and {len(row.said) - 2} more" if len(row.said) > 2 else ""
    )


def _machine() -> str:
    return f"{os.cpu_count()} cores, {psutil.virtual_memory().total // 2**30} GiB, Linux {platform.release().split('-')[0]}"


_WHAT_IT_MEANS = """{shape}

Gateways stream a known content all the time: a live and a backfill lane, resends, readings out of order, other values for keys
that were sent before, readings that must be refused, a clock that is ten minutes ahead (refused, counted) and one that is three
months behind (stored). In its water are contaminations and broken limits. At the end every acknowledged reading is looked for,
value by value, by SQL on every shard and by pyarrow in the archive's objects less what lost (`conflicting_readings`); flags and
conditions are compared with one undisturbed fold; the ledger must balance; each condition must be exactly one alert.

- **sent**: readings handed over to the gateway client; what it had to send again after a break is duplicate in the ledger.
- **lost**: keys that were acknowledged and are not in a shard, not in the archive, or not kept as conflicting where they lost.
  **doubled**: rows that are there twice, or were never sent. Both must be 0 in every row.
- **recovered after**: seconds from the engine's return (or the start of a killed program) until every gateway is acknowledged
  again, no stage names a problem and all that was acknowledged can be read; at most 30.
- **longest without ack**: no gateway was acknowledged anything for so long; they are slowed and drop nothing.
- **most MB**: the largest of our processes."""
