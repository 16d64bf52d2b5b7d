"""Writes docs/settings.md from the settings themselves: `python deploy/settings_page.py FILE`."""

import sys
from pathlib import Path

from mesh.settings import Settings

HEAD = """# Settings

Made from `mesh/settings.py` by `make gen`. Each may stand in a TOML file (as `name = value`), in the environment, or be
given as a flag where `wq up --help` has one; the later of these counts. Wrong ones are reported all at once, before
anything starts.

| name | environment | default | what it does |
|---|---|---|---|
"""


def page() -> str:
    """The page: one row a setting."""
    rows = (
        f"| `{name}` | `WQ_{name.upper()}` | `{field.default}` | {field.description} |\n"
        for name, field in Settings.model_fields.items()
    )
    return HEAD + "".join(rows)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
