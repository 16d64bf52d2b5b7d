"""The connections of programs to engines, each through a proxy that breaks; brokers, too, who tell clients where to connect."""

import asyncio
import struct
from collections.abc import Mapping
from contextlib import suppress

from tests.proxy import BreakableProxy

HOST = b"127.0.0.1"


class BrokerProxy(BreakableProxy):
    """Before one broker of a cluster. In what brokers answer, the address of each is replaced by that of its proxy, so that a
    client which begins at a proxy never comes to know a broker. `ports`: broker's port -> its proxy's, filled by the caller once
    all are there."""

    def __init__(self, target_port: int, ports: Mapping[int, int]) -> None:
        super().__init__(target_port)
        self._ports = ports

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, from_client: bool) -> None:
        if from_client:
            await super()._pump(reader, writer, from_client=True)
            return
        answers = asyncio.StreamReader()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._rewrite(reader, answers))
            tasks.create_task(super()._pump(answers, writer, from_client=False))

    async def _rewrite(self, reader: asyncio.StreamReader, answers: asyncio.StreamReader) -> None:
        """An address may be cut by the end of a chunk: what could be the begin of one is held back until the next comes."""
        held = b""
        try:
            with suppress(OSError):  # the broker was killed: its client learns of the end
                while data := await reader.read(2**16):
                    data = held + data
                    for broker, proxy in self._ports.items():
                        data = data.replace(_address(broker), _address(proxy))
                    kept = max((self._begun(data, broker) for broker in self._ports), default=0)
                    held = data[len(data) - kept :]
                    answers.feed_data(data[: len(data) - kept])
        finally:
            answers.feed_data(held)
            answers.feed_eof()

    @staticmethod
    def _begun(data: bytes, broker: int) -> int:
        """How many bytes at the end may be the begin of this broker's address."""
        address = _address(broker)
        return next((count for count in range(len(address) - 1, 3, -1) if data.endswith(address[:count])), 0)


def _address(port: int) -> bytes:
    """As Kafka's protocol writes a host and its port, behind the length of the host."""
    return HOST + struct.pack(">i", port)
