"""The breakable proxy before a Kafka broker: brokers tell clients where to connect, so their address is replaced in answers."""

import asyncio
import struct

from tests.proxy import BreakableProxy

_SURE_BYTES = 4  # so much of an address at the end of a chunk is the begin of one


class KafkaProxy(BreakableProxy):
    """Before the broker at 127.0.0.1:`target_port`, the only one of its cluster. Clients that are told of the proxy never come
    to know the broker."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port)
        self._broker = _address(target_port)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, from_client: bool) -> None:
        if from_client:
            await super()._pump(reader, writer, from_client=True)
            return
        answers = asyncio.StreamReader()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._rewrite(reader, answers))
            tasks.create_task(super()._pump(answers, writer, from_client=False))

    async def _rewrite(self, reader: asyncio.StreamReader, answers: asyncio.StreamReader) -> None:
        held = b""
        try:
            while data := await reader.read(2**16):
                data = (held + data).replace(self._broker, _address(self.port))
                kept = next((n for n in range(len(self._broker) - 1, _SURE_BYTES - 1, -1) if data.endswith(self._broker[:n])), 0)
                held = data[len(data) - kept :]
                answers.feed_data(data[: len(data) - kept])
        finally:
            answers.feed_eof()


def _address(port: int) -> bytes:
    """As Kafka's protocol writes a host and its port, behind the length of the host."""
    return b"127.0.0.1" + struct.pack(">i", port)
