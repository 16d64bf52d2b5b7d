"""A disk that is soon full: a file system of its own in memory, for tests that run as root."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

BLOCK_BYTES = 1 << 20


@contextmanager
def small_disk(place: Path, size_mb: int) -> Iterator[Path]:
    """Mounted at this folder, which is made when it is missing."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=755", "none", place], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@cache
def may_mount() -> bool:
    """Whether this user may have a small disk here; not every root in a container may."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    folder = Path(tempfile.mkdtemp(prefix="wq-"))
    try:
        with small_disk(folder, 1):
            return True
    except subprocess.CalledProcessError:
        return False
    finally:
        folder.rmdir()


def fill(file: Path) -> None:
    """Writes until the disk is full."""
    with file.open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(min(BLOCK_BYTES, shutil.disk_usage(file).free) or 1))
        except OSError:
            return
