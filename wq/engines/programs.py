"""Where the engines' programs are, or what to do when they are not there."""

import shutil
from pathlib import Path

from mesh.errors import SetupError

PROJECT = Path(__file__).parents[2]
TOOLS = PROJECT / ".tools"
RABBITMQ = Path("/usr/lib/rabbitmq/bin")  # the scripts themselves: Debian's wrappers of them run as its own user only
_MEND = "run `make engines`"


def find_java() -> str:
    """The path of java. Raises SetupError when there is none."""
    return _found("java", shutil.which("java"))


def find_jars() -> Path:
    """The folder of Kafka's jars."""
    jars = TOOLS / "kafka"
    if next(jars.glob("kafka_2.13-*.jar"), None) is None:
        raise SetupError(f"Kafka's jars are not in {jars}: {_MEND}")
    return jars


def find_gateway() -> tuple[str, str]:
    """The path of versitygw, and its version."""
    path = TOOLS / "versitygw"
    version = TOOLS / "versitygw.version"
    if not (path.exists() and version.exists()):
        raise SetupError(f"versitygw is not in {TOOLS}: {_MEND}")
    return str(path), version.read_text().strip().rpartition("@")[2]


def find_epmd() -> str:
    """The path of Erlang's port mapper."""
    return _found("epmd", shutil.which("epmd"))


def find_rabbitmq() -> Path:
    """The folder of rabbitmq-server and rabbitmqctl."""
    if not (RABBITMQ / "rabbitmq-server").exists():
        raise SetupError(f"RabbitMQ is not installed (no {RABBITMQ / 'rabbitmq-server'}): {_MEND}")
    return RABBITMQ


def _found(name: str, path: str | None) -> str:
    if path is None:
        raise SetupError(f"{name} is not installed: {_MEND}")
    return path
