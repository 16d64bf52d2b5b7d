"""Where the mesh is, how a command reaches it, and how its errors look to a person."""

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, ParamSpec, TypeVar, cast

import grpc
import typer
from rich.console import Console
from rich.markup import escape

from mesh.errors import Conflict, NotFound, Unavailable, Unsupported, WaterError, from_rpc
from mesh.routed import TAKE_TURNS, RoutedAioChannel, RoutedChannel
from wq.data_directory import default_path

DEFAULT_TARGET = "127.0.0.1:50051"
CALL_S = 30.0
_OPTIONS = [("grpc.max_receive_message_length", 64 * 1024 * 1024), ("grpc.enable_retries", 0), TAKE_TURNS]
_NOBODY_THERE = (  # gRPC's own words
    "connect to all addresses", "connections to all backends", "Socket closed", "DNS", "name resolver", "recvmsg",
)  # fmt: skip
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def write_endpoint(file: Path, target: str, http: str = "", web: str = "") -> None:
    """Says in the data directory's endpoint.json where this process serves gRPC (HOST:PORT), metrics and the dashboard; whole
    or not at all."""
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps({"grpc": target, "http": http, "web": web, "pid": os.getpid()}))
    draft.replace(file)


def find_target(given: str | None) -> str:
    """HOST:PORT: what was given, else WQ_TARGET, else what endpoint.json in the data directory says, else 127.0.0.1:50051."""
    if named := given or os.environ.get("WQ_TARGET"):
        return named
    try:
        content = json.loads((default_path() / "endpoint.json").read_text())
        return str(content["grpc"]) or DEFAULT_TARGET
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_TARGET


@contextmanager
def open_channel(target: str) -> Iterator[grpc.Channel]:
    """A channel without encryption; nothing is connected until the first call."""
    with RoutedChannel(target, _open) if "=" in target else _open(target) as channel:
        yield cast("grpc.Channel", channel)


def open_aio_channel(target: str) -> grpc.aio.Channel:
    """The same for asyncio; the caller closes it."""
    return cast("grpc.aio.Channel", RoutedAioChannel(target, _open_aio)) if "=" in target else _open_aio(target)


def _open(address: str) -> grpc.Channel:
    return grpc.insecure_channel(address, options=_OPTIONS)


def _open_aio(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


def says_errors(command: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Wraps a command: an error becomes one line and a hint on stderr and exit code 1; Ctrl-C becomes exit code 130."""

    @functools.wraps(command)
    def wrapped(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            return command(*args, **kwargs)
        except BaseExceptionGroup as group:
            fail(_first(group))
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:  # `wq readings .. | head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (WaterError, grpc.RpcError) as error:
            fail(error)

    return wrapped


def fail(error: BaseException) -> NoReturn:
    """Says what went wrong and what may help, and ends with exit code 1. Raises what is not ours."""
    if isinstance(error, grpc.RpcError):
        error = from_rpc(error)
    if not isinstance(error, WaterError):
        raise error
    console = Console(stderr=True, soft_wrap=True)
    console.print(f"[bold red]error:[/] {escape(_short(error.message))}", highlight=False)
    if hint := hint_for(error):
        console.print(f"[dim]hint:[/] {escape(hint)}", highlight=False)
    raise typer.Exit(1)


def hint_for(error: WaterError) -> str:
    """What a person may try next; empty where the message says it all."""
    match error:
        case Unavailable() if any(sign in error.message for sign in _NOBODY_THERE) or error.reason == "DEADLINE_EXCEEDED":
            return "is the mesh running there? `make up` starts one here; --target HOST:PORT or WQ_TARGET names another"
        case Unavailable():
            return f"it may work in {error.retry_after_s:g} s; `wq status` shows how far behind the pipeline is"
        case Unsupported():
            return "this server does not serve that yet"
        case NotFound() if error.reason == "NOT_FOUND":
            return "`wq sites ls` and `wq sensors ls` list what there is"
        case Conflict() if error.reason == "NEWER_STREAM":
            return "another process sends as the same gateway: name this one with --gateway"
    return ""


def _short(message: str) -> str:
    """gRPC's long word for a port where nobody listens, shortened to what matters."""
    _, found, rest = message.partition("last error: ")
    return f"cannot connect: {rest.removeprefix('UNKNOWN: ')}" if found else message


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error inside, however deep."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
