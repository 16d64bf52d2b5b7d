"""The project's own files, for tests that read code instead of running it."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVICES = ("ingest_svc", "query_svc", "alert_svc", "archive_svc", "web_svc")
PRODUCT = ("water", "mesh", *SERVICES, "wq")


@cache
def files() -> tuple[Path, ...]:
    """Everything that is part of the project: tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    paths = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return tuple(sorted({path for path in paths if path.is_file()}))


def python_files(*folders: str) -> list[Path]:
    """Hand-written modules below these folders of the root; of all but gen/ when none is named."""
    found = [path for path in files() if path.suffix == ".py" and relative(path).parts[0] != "gen"]
    return [path for path in found if not folders or relative(path).parts[0] in folders]


@cache
def parsed(path: Path) -> ast.Module:
    """The module's syntax tree."""
    return ast.parse(path.read_text(), str(path))


def relative(path: Path) -> Path:
    """The path from the root on."""
    return path.relative_to(ROOT)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
