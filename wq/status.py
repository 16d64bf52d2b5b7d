"""The command `wq status`: how far behind each stage of the pipeline is."""

import time
from typing import Annotated

import grpc
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from waterquality.v1.query_pb2 import GetPipelineStatusRequest, GetPipelineStatusResponse
from waterquality.v1.query_pb2_grpc import QueryServiceStub

from mesh.clock import SystemClock
from mesh.errors import from_rpc
from wq.connect import CALL_S, find_target, open_channel, says_errors
from wq.options import AsJson, Target
from wq.plain import plain, print_json
from wq.show import count, make_table
from wq.when import ago, iso, span

_EVERY_S = 1.0


@says_errors
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Go on, once a second, until Ctrl-C.")] = False,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """How far each stage is behind, and what is wrong with it.

    Ends with 1 when a stage has a problem. With --watch and --json one object per second.

    Examples:

      wq status

      wq status --watch
    """
    with open_channel(find_target(target)) as channel:
        stub = QueryServiceStub(channel)
        answer = stub.GetPipelineStatus(GetPipelineStatusRequest(), timeout=CALL_S)
        if watch:
            _watch(stub, answer, as_json)
        elif as_json:
            print_json(plain(answer))
        else:
            Console().print(_shown(answer), soft_wrap=True)
    if any(stage.problem for stage in answer.stages):
        raise typer.Exit(1)


def _watch(stub: QueryServiceStub, answer: GetPipelineStatusResponse, as_json: bool) -> None:
    """Until Ctrl-C; a server that is away for a while is shown, not fatal."""
    with Live(_shown(answer), console=Console(), auto_refresh=False) as live:
        while True:
            if as_json:
                print_json(plain(answer))
            time.sleep(_EVERY_S)
            try:
                answer = stub.GetPipelineStatus(GetPipelineStatusRequest(), timeout=CALL_S)
                shown = _shown(answer)
            except grpc.RpcError as error:
                shown = Group(Text(f"no answer: {from_rpc(error).message}", "bold red"))
            if not as_json:
                live.update(shown, refresh=True)


def _shown(answer: GetPipelineStatusResponse) -> Group:
    table = make_table(["stage", "problem"], ["waiting", "behind", "per second"])
    for stage in answer.stages:
        lag_s = stage.lag_duration.ToMicroseconds() / 1e6
        behind = span(lag_s) if stage.backlog_count else "-"
        problem = Text(stage.problem or "none", "bold red" if stage.problem else "green")
        table.add_row(stage.stage, problem, count(stage.backlog_count), behind, f"{stage.rate_per_s:.1f}")
    if not answer.HasField("readable_time"):
        return Group(table if answer.stages else Text("no stage has reported yet"))
    readable_us = answer.readable_time.ToMicroseconds()
    line = f"everything acknowledged before {iso(readable_us)} can be read ({ago(readable_us, SystemClock().now_us())})"
    return Group(table, Text(line))
