"""The command `wq`: which commands there are."""

import sys
from importlib import import_module
from importlib.util import find_spec

import structlog
import typer

from wq.aggregate import aggregate
from wq.alerts import alerts
from wq.ledger import ledger
from wq.reads import latest, readings, watch
from wq.replay import replay
from wq.rules import rules
from wq.sensors import sensors
from wq.sites import sites
from wq.status import status

app = typer.Typer(
    name="wq",
    help="The Water Quality Mesh: readings of sensors from the gateway to the query, with proof that none was lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Runs the command line."""
    app()


@app.callback()
def before_any_command() -> None:
    """The Water Quality Mesh: readings of sensors from the gateway to the query, with proof that none was lost."""
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))  # stdout is for answers


def _mount(name: str) -> None:
    """Adds what the module wq.<name> calls <name>, a function or a Typer, if it is there."""
    command = getattr(import_module(f"wq.{name}"), name, None) if find_spec(f"wq.{name}") else None
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name)
    elif command is not None:
        app.command(name)(command)


for _name in ("up", "serve", "migrate", "simulate"):
    _mount(_name)
app.command()(replay)
app.command()(latest)
app.command()(readings)
app.command()(aggregate)
app.command()(watch)
app.add_typer(sites, name="sites")
app.add_typer(sensors, name="sensors")
app.add_typer(alerts, name="alerts")
app.add_typer(rules, name="rules")
app.command()(ledger)
app.command()(status)
for _name in ("archive", "bench", "engines", "probe", "reshard"):
    _mount(_name)
