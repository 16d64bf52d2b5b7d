"""A RabbitMQ node of our own, with a port mapper (epmd) of its own: one that the system runs is neither used nor ended."""

import http.client
import json
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from wq.engines.engine import NotAnswering
from wq.engines.ports import HOST
from wq.engines.processes import Process, end, spawn
from wq.engines.programs import find_epmd, find_rabbitmq
from wq.engines.state import write_private

USER = "wq"
_AMQP, _HTTP, _DISTRIBUTION, _EPMD = "rabbitmq", "rabbitmq-http", "rabbitmq-erlang", "rabbitmq-epmd"
PORTS = (_AMQP, _HTTP, _DISTRIBUTION, _EPMD)
_PROBE_S = 3.0
_END_S = 30.0
_LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"
_CONFIGURATION = """\
listeners.tcp.1 = {host}:{amqp}
management.tcp.ip = {host}
management.tcp.port = {http}
# Rates for the page are not collected: they would cost time on every message.
management_agent.disable_metrics_collector = true
# Instead of guest, which is not made.
default_user = {user}
default_pass = {password}
log.file = rabbitmq.log
log.file.level = info
log.file.rotation.size = 8388608
log.file.rotation.count = 1
log.console = false
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 256MB
"""
_CONTROL = """\
#!/bin/sh
# rabbitmqctl for this node: `{path} list_queues name messages`
{exports}
exec {program} "$@"
"""


@dataclass(slots=True)
class RabbitNode:
    """The one node of the set. `control`: where the script is put that runs rabbitmqctl on it."""

    folder: Path
    node: str
    password: str = field(repr=False)
    ports: dict[str, int]
    control: Path
    name: str = "rabbitmq"

    @property
    def address(self) -> str:
        return f"{HOST}:{self.ports[_AMQP]}"

    @property
    def url(self) -> str:
        """For AMQP clients; holds the password."""
        return f"amqp://{USER}:{self.password}@{self.address}/"

    @property
    def log(self) -> Path:
        return self.folder / "log" / "rabbitmq.log"

    def launch(self) -> list[Process]:
        program, epmd = find_rabbitmq() / "rabbitmq-server", find_epmd()
        for folder in (self.folder, self.folder / "log", self.folder / "data"):
            folder.mkdir(mode=0o700, exist_ok=True)
        settings = _CONFIGURATION.format(
            host=HOST, amqp=self.ports[_AMQP], http=self.ports[_HTTP], user=USER, password=self.password
        )
        write_private(self.folder / "rabbitmq.conf", settings)
        write_private(self.folder / "enabled_plugins", "[rabbitmq_management].\n")
        environment = self._environment()
        self._write_control(environment)
        output = self.folder / "output.log"
        mapper = spawn([epmd, "-address", HOST, "-port", str(self.ports[_EPMD])], self.folder, output, environment)
        return [spawn([str(program)], self.folder, output, environment), mapper]

    def probe(self) -> str:
        status, _ = self.ask("GET", f"/api/health/checks/port-listener/{self.ports[_AMQP]}")
        if status != http.client.OK:
            raise NotAnswering(f"it does not listen for AMQP yet: its HTTP interface answers {status}")
        status, answer = self.ask("GET", "/api/overview")
        if status != http.client.OK:
            raise NotAnswering(f"its HTTP interface answers {status}")
        return f"RabbitMQ {json.loads(answer)['rabbitmq_version']}"

    def furnish(self) -> None:
        """Exchanges and queues are made by the mesh."""

    def end(self, processes: list[Process]) -> None:
        end(processes, _END_S)

    def ask(self, method: str, path: str, content: object = None) -> tuple[int, bytes]:
        """One request to the HTTP interface: the status and the body. Raises NotAnswering."""
        return ask(f"http://{HOST}:{self.ports[_HTTP]}", (USER, self.password), method, path, content)

    def _environment(self) -> dict[str, str]:
        place = self.folder
        return {
            "HOME": str(place),  # where Erlang keeps the cookie
            "LANG": "C.UTF-8",
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self.ports[_EPMD]),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self.ports[_DISTRIBUTION]),
            "RABBITMQ_CONF_ENV_FILE": str(place / "rabbitmq-env.conf"),  # not there, so that the machine's is not read either
            "RABBITMQ_CONFIG_FILE": str(place / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(place / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(place / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(place / "data"),
            "RABBITMQ_LOG_BASE": str(place / "log"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _LOOPBACK,
            "RABBITMQ_CTL_ERL_ARGS": _LOOPBACK,
        }

    def _write_control(self, environment: dict[str, str]) -> None:
        exports = "\n".join(f"export {name}='{value}'" for name, value in environment.items())
        program = find_rabbitmq() / "rabbitmqctl"
        write_private(self.control, _CONTROL.format(path=self.control, exports=exports, program=program), 0o700)


def ask(address: str, user: tuple[str, str], method: str, path: str, content: object = None) -> tuple[int, bytes]:
    """One request to the HTTP interface of a RabbitMQ at `http://HOST:PORT`."""
    connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"), timeout=_PROBE_S)
    headers = {"Authorization": "Basic " + b64encode(":".join(user).encode()).decode(), "Content-Type": "application/json"}
    try:
        connection.request(method, path, json.dumps(content or {}) if method != "GET" else None, headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NotAnswering(f"no HTTP interface: {error}") from None
    finally:
        connection.close()


def vhost_path(name: str) -> str:
    """Where the HTTP interface has a virtual host."""
    return f"/api/vhosts/{quote(name, safe='')}"
