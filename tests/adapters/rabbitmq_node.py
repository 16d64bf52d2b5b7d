"""A RabbitMQ node of the test's own: in a temporary folder, on its own ports, to be killed, paused and looked into."""

import asyncio
import json
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wq.engines import processes
from wq.engines.engine import NotAnswering
from wq.engines.ports import choose_port
from wq.engines.rabbitmq import PORTS, RabbitNode

_START_S = 90.0
_LOOK_S = 0.1
_USER = "wq"


class OwnNode:
    """A started node. What changes its life waits until it is so, in a thread."""

    def __init__(self, folder: Path) -> None:
        ports: dict[str, int] = {}
        for name in PORTS:
            ports[name] = choose_port(ports.values())
        name = f"wqtest-{secrets.token_hex(4)}@localhost"
        self.password = secrets.token_hex(8)
        self._node = RabbitNode(folder / "node", name, self.password, ports, folder / "rabbitmqctl")
        self._processes: list[processes.Process] = []

    @property
    def port(self) -> int:
        """Where AMQP is spoken."""
        return self._node.ports[PORTS[0]]

    def start(self) -> None:
        """It serves on return."""
        self._processes = self._node.launch()
        deadline = time.monotonic() + _START_S
        while True:
            try:
                self._node.probe()
            except NotAnswering:
                assert time.monotonic() < deadline, self._node.log.read_text()[-2000:]
                time.sleep(_LOOK_S)
            else:
                return

    def kill(self) -> None:
        """SIGKILL; what it had not written to its files is lost."""
        processes.kill(self._processes)

    async def restart_killed(self) -> None:
        """Killed, and serving again on return."""
        await asyncio.to_thread(self.kill)
        await asyncio.to_thread(self.start)

    async def pause(self) -> None:
        """SIGSTOP: connections stay, nobody answers."""
        await asyncio.to_thread(processes.pause, self._processes)

    async def resume(self) -> None:
        """SIGCONT."""
        await asyncio.to_thread(processes.resume, self._processes)

    def fresh_vhost(self, port: int | None = None) -> str:
        """The URL of a new virtual host; by way of another port where one is given."""
        vhost = f"test_{secrets.token_hex(4)}"
        self.tell("PUT", f"vhosts/{vhost}")
        self.permit(_USER, vhost, ".*")
        return self.url(vhost, port)

    def url(self, vhost: str, port: int | None = None, user: str = _USER, password: str = "") -> str:
        return f"amqp://{user}:{password or self.password}@127.0.0.1:{port or self.port}/{vhost}"

    def permit(self, user: str, vhost: str, rights: str) -> None:
        """All three rights on names that match."""
        self.tell("PUT", f"permissions/{vhost}/{user}", {"configure": rights, "write": rights, "read": rights})

    def tell(self, method: str, path: str, content: object = None) -> None:
        """One change through its HTTP interface."""
        status, answer = self._node.ask(method, f"/api/{path}", content)
        assert 200 <= status < 300, (method, path, status, answer)

    def look(self, path: str) -> Any:
        """What its HTTP interface tells."""
        status, answer = self._node.ask("GET", f"/api/{path}")
        assert status == 200, (path, status, answer)
        return json.loads(answer)

    def queues(self, url: str) -> dict[str, Any]:
        """The queues of a virtual host, by name."""
        return {
            queue["name"]: queue for queue in self.look(f"queues/{vhost_of(url)}?disable_stats=true&enable_queue_totals=true")
        }

    def control(self, *words: str) -> None:
        """One command of rabbitmqctl."""
        subprocess.run([str(self._node.control), *words], check=True, capture_output=True, timeout=60)

    def end(self) -> None:
        """In good order."""
        self._node.end(self._processes)


def vhost_of(url: str) -> str:
    """For paths of the HTTP interface."""
    return quote(url.rsplit("/", 1)[1], safe="")


@contextmanager
def own_node() -> Iterator[OwnNode]:
    """Serves inside the block; everything of it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="wq-rabbit-"))
    node = OwnNode(folder)
    try:
        node.start()
        yield node
    finally:
        node.kill()
        shutil.rmtree(folder)
