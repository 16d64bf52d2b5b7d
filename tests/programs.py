"""Programs that some tests need besides Python: where they are, and what happens when one is missing."""

import os
import shutil
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / ".tools"  # `make test` installs Go programs there


def program(name: str) -> str:
    """The program's path. Missing: the test is skipped, or fails where WQ_REQUIRE_ENGINES is set (CI)."""
    found = shutil.which(name, path=f"{TOOLS}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        missing = f"{name} is not installed; `make test` installs it where Go is present"
        if os.environ.get("WQ_REQUIRE_ENGINES"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found
