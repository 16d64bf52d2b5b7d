"""Objects in a directory, beyond the port: what lies around them, full disks, symbolic links."""

import errno
import os
from pathlib import Path

import pytest

from mesh.adapters.directory import DirectoryObjects
from mesh.errors import InvalidArgument, Unavailable


async def test_symbolic_links_lead_nowhere(tmp_path: Path, objects: DirectoryObjects) -> None:
    root, outside = tmp_path / "objects", tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    await objects.put("real/object", b"")
    (root / "link").symlink_to(outside)
    (root / "real" / "file").symlink_to(outside / "secret")
    through_folder = (objects.get("link/secret"), objects.put("link/new", b""), objects.delete("link/secret"))
    for call in (*through_folder, objects.get("real/file"), objects.put("real/file", b"")):
        with pytest.raises(InvalidArgument, match="symbolic link"):
            await call
    assert [path async for path in objects.list("")] == ["real/object"]
    assert [path.name for path in outside.iterdir()] == ["secret"]


async def test_an_object_and_a_folder_cannot_share_a_name(objects: DirectoryObjects) -> None:
    await objects.put("a", b"")
    with pytest.raises(InvalidArgument, match="is an object"):
        await objects.put("a/b", b"")
    await objects.put("c/d", b"")
    with pytest.raises(InvalidArgument, match="is a folder"):
        await objects.put("c", b"")
    await objects.delete("c")
    assert [path async for path in objects.list("")] == ["a", "c/d"]


async def test_a_full_disk_is_said_so_and_leaves_nothing_half_written(
    tmp_path: Path, objects: DirectoryObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    await objects.put("before", b"")
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", no_room)
        with pytest.raises(Unavailable, match=r"full \(\d+ MiB free\)") as error:
            await objects.put("a", b"content")
    assert error.value.reason == "DISK_FULL"
    assert [path async for path in objects.list("")] == ["before"]
    assert list((tmp_path / "objects" / "~unfinished").iterdir()) == []
    assert await objects.put("a", b"content") is True


async def test_what_a_killed_process_left_half_written_is_swept_when_it_is_old(tmp_path: Path) -> None:
    unfinished = tmp_path / "objects" / "~unfinished"
    unfinished.mkdir(parents=True)
    for name in ("old", "new"):
        (unfinished / name).write_bytes(b"half")
    os.utime(unfinished / "old", (0, 0))
    await DirectoryObjects(tmp_path / "objects").put("a", b"")
    assert [path.name for path in unfinished.iterdir()] == ["new"]


async def test_a_directory_that_cannot_be_used_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="cannot be used"):
        await DirectoryObjects(tmp_path / "file").put("a", b"")
