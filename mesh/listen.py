"""Where a process may listen (law 15: loopback, or TLS), and why an address could not be had."""

import errno
import socket
from contextlib import suppress
from ipaddress import ip_address

from mesh.errors import SetupError


def check_address(host: str, encrypted: bool) -> None:
    """Raises SetupError (OPEN_WITHOUT_TLS) for an address that others can reach when what is said there is not encrypted."""
    if not encrypted and not is_loopback(host):
        raise SetupError(
            f"host {host!r} can be reached from other machines and there is no TLS: listen on 127.0.0.1 or ::1, "
            "and put a proxy that speaks TLS in front",
            reason="OPEN_WITHOUT_TLS",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address. A name other than localhost is not trusted to be one."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return False


def target(host: str, port: int) -> str:
    """host:port, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def not_bound(host: str, port: int, setting: str) -> SetupError:
    """The error for an address that could not be bound, with the system's own reason; `setting` names the port's setting."""
    problem = _why(host, port)
    what = f"cannot listen on {target(host, port)}"
    mend = f"set {setting} to another port (0 takes a free one)"
    if problem in (errno.EADDRINUSE, None):
        return SetupError(f"{what}: the port is in use; stop the program that has it, or {mend}", reason="PORT_BUSY")
    if problem == errno.EACCES:
        return SetupError(f"{what}: this user may not use the port; {mend} above 1023", reason="PORT_FORBIDDEN")
    return SetupError(f"{what}: this machine has no such address; set host to 127.0.0.1", reason="NO_SUCH_ADDRESS")


def _why(host: str, port: int) -> int | None:
    """The error number that a plain socket gets there; None: it gets the address, so it was in use only a moment ago."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error.errno or errno.EADDRNOTAVAIL
    return None
