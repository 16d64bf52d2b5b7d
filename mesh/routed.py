"""How is one channel made of several addresses, when each service of a mesh listens on its own?

A target is HOST:PORT, any other name that gRPC understands (`ipv4:127.0.0.1:1,127.0.0.1:2`: calls take turns), or one each:
`ingest=HOST:PORT;query=HOST:PORT;alert=HOST:PORT;archive=HOST:PORT`.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from mesh.errors import SetupError

SERVICES = {
    "ingest": ("IngestService",),
    "query": ("QueryService", "CatalogService", "LedgerService"),
    "alert": ("AlertService", "RuleService"),
    "archive": ("ArchiveService",),
}
TAKE_TURNS = ("grpc.lb_policy_name", "round_robin")
_KIND_OF = {f"waterquality.v1.{service}": kind for kind, services in SERVICES.items() for service in services}


def target_for(target: str, kind: str) -> str:
    """The address of one kind of service (ingest, query, alert, archive). Raises SetupError when the target does not say."""
    if "=" not in target:
        return target
    addresses = dict(part.strip().split("=", 1) for part in target.split(";") if "=" in part)
    if unknown := sorted(set(addresses) - set(SERVICES)):
        raise SetupError(f"target {target!r}: {unknown[0]!r} is none of {', '.join(SERVICES)}")
    if kind not in addresses:
        raise SetupError(f"target {target!r} does not say where {kind} is: add {kind}=HOST:PORT")
    return addresses[kind]


class Routed:
    """What stubs need of a channel: each call goes to the address of its service. Addresses are opened when first needed."""

    def __init__(self, target: str, open_one: Callable[[str], Any]) -> None:
        self._target = target
        self._open = open_one
        self._channels: dict[str, Any] = {}

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._of(method).unary_unary(method, *args, **kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._of(method).unary_stream(method, *args, **kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._of(method).stream_unary(method, *args, **kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._of(method).stream_stream(method, *args, **kwargs)

    def _of(self, method: str) -> Any:
        address = target_for(self._target, _KIND_OF.get(method.split("/")[1], "query"))
        if address not in self._channels:
            self._channels[address] = self._open(address)
        return self._channels[address]


class RoutedChannel(Routed):
    """Of grpc channels, for use in `with`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for channel in self._channels.values():
            channel.close()


class RoutedAioChannel(Routed):
    """Of grpc.aio channels, for use in `async with`, or to be closed."""

    async def channel_ready(self) -> None:
        """Waits until every service that the target names can be reached."""
        for kind in (kind for kind in SERVICES if f"{kind}=" in self._target):
            await self._of(f"/waterquality.v1.{SERVICES[kind][0]}/").channel_ready()

    async def close(self, grace: float | None = None) -> None:
        for channel in self._channels.values():
            await channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
