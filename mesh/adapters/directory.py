"""Objects as files below one directory: written beside, made durable, then linked to their name: none is ever half there."""

import asyncio
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from mesh.adapters.object_paths import check_prefix, is_segment, segments_of, too_large
from mesh.errors import InvalidArgument, NotFound, ObjectConflict, Unavailable

_T = TypeVar("_T")
_UNFINISHED = "~unfinished"  # `~` is not in the alphabet of paths: never an object
_UNFINISHED_AGE_S = 3600.0
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryObjects:
    """The port Objects on a directory, which is made when it is missing. Several processes may share it.

    Work on the disk runs in `threads` (the loop's own when None). Symbolic links below the directory are refused, so nothing
    outside of it is ever read or written. A path cannot be both an object and a folder of others, unlike on S3.
    """

    def __init__(self, root: Path, threads: Executor | None = None) -> None:
        self._root = root
        self._threads = threads
        self._swept = False

    async def put(self, path: str, content: bytes) -> bool:
        segments = segments_of(path)
        return await self._in_thread(lambda: self._put(segments, content))

    async def get(self, path: str, limit: int | None = None) -> bytes:
        segments = segments_of(path)
        return await self._in_thread(lambda: self._get(segments, limit))

    async def delete(self, path: str) -> None:
        segments = segments_of(path)
        await self._in_thread(lambda: self._delete(segments))

    async def list(self, prefix: str) -> AsyncIterator[str]:
        """As the port says. Reads one folder at a time, so memory holds the names of the folders on the way down only."""
        check_prefix(prefix)
        *above, _ = prefix.split("/")
        waiting = ["/".join(above) + "/" if above else ""]
        while waiting:
            path = waiting.pop()
            if path and not path.endswith("/"):
                yield path
                continue
            found = await self._in_thread(partial(self._names, path))
            waiting.extend(name for name in reversed(found) if name.startswith(prefix) or _is_above(name, prefix))

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: self._translated(work))

    def _translated(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                free = shutil.disk_usage(self._root).free
                raise Unavailable(
                    f"the disk that holds {self._root} is full ({free // 2**20} MiB free): make room", reason="DISK_FULL"
                ) from error
            raise Unavailable(f"the directory {self._root} cannot be used: {error.strerror}") from error

    def _put(self, segments: Sequence[str], content: bytes) -> bool:
        self._root.mkdir(parents=True, exist_ok=True)
        with self._folder([_UNFINISHED], make=True) as unfinished, self._folder(segments[:-1], make=True) as folder:
            self._sweep(unfinished)
            name = secrets.token_hex(16)
            try:
                _write(unfinished, name, content)
                try:
                    os.link(name, segments[-1], src_dir_fd=unfinished, dst_dir_fd=folder, follow_symlinks=False)
                    created = True
                except FileExistsError:
                    created = False
                    _must_hold(folder, segments, content)
                os.fsync(folder)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=unfinished)
        return created

    def _get(self, segments: Sequence[str], limit: int | None) -> bytes:
        try:
            with self._folder(segments[:-1]) as folder:
                return _read(folder, segments, limit)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFound(f"no object {'/'.join(segments)!r}") from None

    def _delete(self, segments: Sequence[str]) -> None:
        with suppress(FileNotFoundError, NotADirectoryError), self._folder(segments[:-1]) as folder:
            if stat.S_ISDIR(os.stat(segments[-1], dir_fd=folder, follow_symlinks=False).st_mode):
                return
            os.unlink(segments[-1], dir_fd=folder)
            os.fsync(folder)

    def _names(self, folder_path: str) -> Sequence[str]:
        """What is in a folder, as whole paths in the order of their bytes; folders end with a slash, as in the paths below."""
        try:
            with self._folder(folder_path.split("/")[:-1]) as folder, os.scandir(folder) as entries:
                return sorted(
                    folder_path + entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "")
                    for entry in entries
                    if is_segment(entry.name) and not entry.is_symlink()
                )
        except (FileNotFoundError, NotADirectoryError):
            return []

    @contextmanager
    def _folder(self, segments: Sequence[str], make: bool = False) -> Iterator[int]:
        """The open folder of these segments below the root; each is opened by its name in the one before, links refused."""
        handle = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for segment in segments:
                below = self._step(handle, segment, make)
                os.close(handle)
                handle = below
            yield handle
        finally:
            os.close(handle)

    def _step(self, folder: int, segment: str, make: bool) -> int:
        if make:
            with suppress(FileExistsError):
                os.mkdir(segment, dir_fd=folder)
                os.fsync(folder)
        try:
            return os.open(segment, _FOLDER_FLAGS, dir_fd=folder)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            if stat.S_ISLNK(os.stat(segment, dir_fd=folder, follow_symlinks=False).st_mode):
                raise InvalidArgument(f"{segment!r} is a symbolic link, which objects never follow: remove it") from None
            if make:
                raise InvalidArgument(
                    f"{segment!r} is an object, so it cannot be a folder of others: name another path"
                ) from None
            raise

    def _sweep(self, unfinished: int) -> None:
        """Once: removes what killed processes left half written, if it is too old to be in work."""
        if self._swept:
            return
        self._swept = True
        for name in os.listdir(unfinished):
            with suppress(FileNotFoundError):
                if time.time() - os.stat(name, dir_fd=unfinished).st_mtime > _UNFINISHED_AGE_S:
                    os.unlink(name, dir_fd=unfinished)


def _write(folder: int, name: str, content: bytes) -> None:
    handle = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=folder)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)


def _is_above(name: str, prefix: str) -> bool:
    """Whether the folder may hold what begins with the prefix."""
    return name.endswith("/") and prefix.startswith(name)


def _must_hold(folder: int, segments: Sequence[str], content: bytes) -> None:
    """Whoever put it may not have made it durable yet, so its name is made so by our caller: its bytes were before."""
    try:
        found = _read(folder, segments)
    except IsADirectoryError:
        raise InvalidArgument(f"{'/'.join(segments)!r} is a folder of objects: name another path") from None
    if found != content:
        raise ObjectConflict(f"the object {'/'.join(segments)!r} exists with other content: objects never change")


def _read(folder: int, segments: Sequence[str], limit: int | None = None) -> bytes:
    try:
        handle = os.open(segments[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidArgument(f"{'/'.join(segments)!r} is a symbolic link, which objects never follow: remove it") from None
        raise
    found = os.fstat(handle)
    if stat.S_ISDIR(found.st_mode):
        os.close(handle)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    with os.fdopen(handle, "rb") as file:
        if limit is not None and found.st_size > limit:
            raise too_large("/".join(segments), found.st_size, limit)
        return file.read()
