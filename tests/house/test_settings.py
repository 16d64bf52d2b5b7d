"""Every setting is documented, where it is defined and in docs/settings.md."""

import subprocess
import sys
from pathlib import Path

from mesh.settings import Settings
from tests.house.tree import ROOT


def test_every_setting_says_what_it_does() -> None:
    assert not [name for name, field in Settings.model_fields.items() if len(field.description or "") < 20]


def test_every_setting_has_a_safe_default() -> None:
    assert not [name for name, field in Settings.model_fields.items() if field.is_required()]


def test_the_page_of_settings_is_fresh(tmp_path: Path) -> None:
    page = tmp_path / "settings.md"
    subprocess.run([sys.executable, "deploy/settings_page.py", page], cwd=ROOT, check=True, timeout=60)
    assert page.read_text() == (ROOT / "docs/settings.md").read_text(), "run `make gen`"
