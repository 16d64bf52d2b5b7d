"""Everything that the page follows at the services, once per process, however many browsers look."""

from typing import cast

import grpc
from waterquality.v1 import alert_pb2_grpc, catalog_pb2_grpc, ledger_pb2_grpc, query_pb2_grpc

from mesh.ports import Clock
from mesh.routed import RoutedAioChannel
from mesh.run import running
from web_svc.alerts import OpenAlerts
from web_svc.board import Board, Part
from web_svc.numbers import LedgerTotals, Pipeline
from web_svc.places import Places
from web_svc.readings import LatestReadings
from web_svc.series import ChartSeries
from web_svc.source import Source
from web_svc.words import about

LINGER_S = 30.0
_OPTIONS = [
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


def open_channel(target: str) -> grpc.aio.Channel:
    """To the services; nothing is connected until the first call. Finds them again within two seconds. The caller closes it."""
    if "=" in target:
        return cast("grpc.aio.Channel", RoutedAioChannel(target, open_channel))
    return grpc.aio.insecure_channel(target, options=_OPTIONS)


class Live:
    """The board, and what fills it while a browser looks and for 30 s after; a page that nobody looks at costs nothing."""

    def __init__(self, channel: grpc.aio.Channel, clock: Clock) -> None:
        query: query_pb2_grpc.QueryServiceAsyncStub = query_pb2_grpc.QueryServiceStub(channel)
        catalog: catalog_pb2_grpc.CatalogServiceAsyncStub = catalog_pb2_grpc.CatalogServiceStub(channel)
        ledger: ledger_pb2_grpc.LedgerServiceAsyncStub = ledger_pb2_grpc.LedgerServiceStub(channel)
        alerts: alert_pb2_grpc.AlertServiceAsyncStub = alert_pb2_grpc.AlertServiceStub(channel)
        self._clock = clock
        self.board = Board(clock)
        self.alerts = OpenAlerts(alerts, self.board)
        places = Places(catalog, query, self.board, clock)
        readings = LatestReadings(query, places, self.board, clock)
        self.series = ChartSeries(query, readings.newest_us, clock)
        self.board.put(Part.ABOUT, {"words": about()})
        self._sources = (
            Source("sensors", places.follow, self.board, clock),
            Source("readings", readings.follow, self.board, clock),
            Source("stored readings", readings.follow_stored, self.board, clock),
            Source("alerts", self.alerts.follow, self.board, clock),
            Source("pipeline", Pipeline(query, self.board, clock).follow, self.board, clock),
            Source("ledger", LedgerTotals(ledger, self.board, clock).follow, self.board, clock),
        )

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.board.wait_for_browser()
            async with running([source.worker() for source in self._sources], self._clock):
                await self.board.wait_for_nobody(LINGER_S)
            for source in self._sources:
                source.say("connecting")
