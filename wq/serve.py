"""`wq serve`: one service of a mesh on real engines, with all its roles or some, as a process of its own."""

import asyncio
import gc
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, TextIO, cast

import structlog
import typer
import uvloop

from mesh.clock import SystemClock
from mesh.errors import SetupError
from mesh.logs import setup_logs
from mesh.run import stop_on_signals
from mesh.settings import Settings, read_settings
from web_svc.wiring import serving_web
from wq.connect import find_target, says_errors
from wq.live import PresentStderr
from wq.roles import ROLES, Roles, some_roles
from wq.system import running_system
from wq.up import SWITCH_S

GRPC_PORTS = {"ingest": 50051, "query": 50052, "alert": 50053, "archive": 50054}
_log = structlog.get_logger()

_EXAMPLES = """Starts one service of a mesh on real engines: ingest, query, alert, archive or web.

Several processes of a service, or of a role, share the work. Examples:

  wq serve ingest --config wq.toml

  wq serve ingest --role accept --reuse-port --config wq.toml     (again, in other processes, on the same port)

  wq serve query --role record --grpc-port 0 --name record-1 --config wq.toml

  wq serve web --target "query=127.0.0.1:50052;alert=127.0.0.1:50053"

Roles: ingest: accept, screen, publish, silence; query: answer, record, count, sight, export, retain, contexts, days; alert:
answer, raise_alert, notify, contexts; archive: answer, archive, compact. `wq migrate` comes first. SIGTERM or Ctrl-C drains.
"""


@says_errors
def serve(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help=f"{', '.join(ROLES)} or web.")],
    role: Annotated[list[str] | None, typer.Option("--role", help="Only this role; may be repeated.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Port of the gRPC services; 0 takes a free one; default 50051 to 50054 by service.")
    ] = None,
    http_port: Annotated[int, typer.Option(help="Port of the metrics page; 0 takes a free one.")] = 0,
    web_port: Annotated[int | None, typer.Option(help="Port of the dashboard (web).")] = None,
    reuse_port: Annotated[
        bool | None, typer.Option("--reuse-port", help="Share grpc_port with other processes of this machine.")
    ] = None,
    name: Annotated[
        str, typer.Option(help="Name of the process in wq status, the same in its next life; default: service and address.")
    ] = "",
    endpoint: Annotated[Path | None, typer.Option(help="Write where it listens into this file once it serves.")] = None,
    target: Annotated[str | None, typer.Option(help="Of web: where the services are.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file, TOML.")] = None,
) -> None:
    """Starts one service."""
    if service != "web" and service not in ROLES:
        raise SetupError(f"there is no service {service!r}: {', '.join(ROLES)} or web (analytics comes later)")
    if service == "web" and role:
        raise SetupError("web has no roles: leave --role out")
    flags = {"host": host, "http_port": http_port, "web_port": web_port, "reuse_port": reuse_port}
    settings = read_settings(config, flags | {"grpc_port": GRPC_PORTS.get(service, 0) if grpc_port is None else grpc_port})
    setup_logs(settings.log_level, cast("TextIO", PresentStderr()))
    sys.setswitchinterval(SWITCH_S)
    if service == "web":
        uvloop.run(_serve_web(settings, find_target(target)))
    else:
        uvloop.run(_serve(settings, some_roles(service, role or ()), name, endpoint))


serve.__doc__ = _EXAMPLES


async def _serve(settings: Settings, roles: Roles, name: str, endpoint: Path | None) -> None:
    from wq.ground_engines import engines_ground  # four drivers that no other command needs

    stop, clock = asyncio.Event(), SystemClock()
    with stop_on_signals(stop):
        make = partial(engines_ground, settings=settings, clock=clock)
        async with running_system(settings, make, clock, name, endpoint, roles) as system:
            gc.collect()
            gc.freeze()
            said = {service: sorted(some) for service, some in roles.items()}
            _log.info("serving", roles=said, grpc=system.target, metrics=system.metrics_address)
            await stop.wait()
            _log.info("draining", within_s=settings.drain_s)
            await system.drain(settings.drain_s)
    _log.info("stopped")


async def _serve_web(settings: Settings, target: str) -> None:
    stop = asyncio.Event()
    with stop_on_signals(stop):
        async with serving_web(target, settings.host, settings.web_port, SystemClock()) as page:
            _log.info("serving", page=f"http://{page}", services=target)
            await stop.wait()
    _log.info("stopped")
