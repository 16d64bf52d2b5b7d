"""What is wrong with the settings of the webhook, each problem with its mend, before anything is sent."""

import base64
import binascii
import ipaddress

import httpx

from alert_svc.webhook_address import is_public
from mesh.settings import Settings

SHORTEST_SECRET_BYTES, LONGEST_SECRET_BYTES = 24, 64  # Standard Webhooks: 192 to 512 bits
LONGEST_URL = 2000
_PREFIX = "whsec_"
_NEW_SECRET = 'echo "whsec_$(openssl rand -base64 32)" makes one'


def check_webhook(settings: Settings) -> list[str]:
    """Every problem, none when nothing is configured. Neither the secret nor more of the URL than its host is repeated, for the
    rest of it may be a secret too. Where a host's name leads is not looked up here but at each try."""
    if not settings.webhook_url:
        return []
    return _of_url(settings.webhook_url, settings.webhook_private) + _of_secret(settings.webhook_secret.get_secret_value())


def _of_url(given: str, private: bool) -> list[str]:
    if len(given) > LONGEST_URL or not given.isprintable() or " " in given:
        return [f"webhook_url has blanks, control characters or more than {LONGEST_URL:,} characters: give https://host/path"]
    try:
        url = httpx.URL(given)
        host = url.raw_host.decode("ascii").strip("[]")
    except (httpx.InvalidURL, UnicodeError):
        return ["webhook_url is no URL: give https://host/path"]
    problems = []
    if url.scheme not in ("http", "https"):
        problems.append(f"webhook_url has the scheme {url.scheme!r}: give https://host/path")
    if not host:
        problems.append("webhook_url names no host: give https://host/path")
    if url.userinfo or "@" in url.netloc.decode("ascii"):
        problems.append("webhook_url holds a user name or password: leave them out, the signature says who sends")
    if url.fragment:
        problems.append("webhook_url ends in #...: leave that out, it is never sent")
    if url.port is not None and not 0 < url.port < 65536:
        problems.append(f"webhook_url names port {url.port}: give the receiver's, 1 to 65535")
    if private:
        return problems
    if url.scheme == "http":
        problems.append("webhook_url has no TLS: give https://..., or set webhook_private for a receiver in your own network")
    if _leads_home(host):
        problems.append(f"webhook_url leads to {host}, which is not public: set webhook_private if it is in your own network")
    return problems


def _leads_home(host: str) -> bool:
    try:
        return not is_public(str(ipaddress.ip_address(host)))
    except ValueError:
        return host.rstrip(".").rpartition(".")[2] in ("localhost", "local", "internal")


def _of_secret(secret: str) -> list[str]:
    if not secret:
        return [f"webhook_url needs webhook_secret, which the receiver knows too: {_NEW_SECRET}"]
    if not secret.startswith(_PREFIX):
        return [f"webhook_secret does not begin with {_PREFIX}: {_NEW_SECRET}"]
    coded = secret.removeprefix(_PREFIX)
    try:
        key = base64.b64decode(coded + "=" * (-len(coded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return [f"webhook_secret is not base64 after {_PREFIX}: {_NEW_SECRET}"]
    if not SHORTEST_SECRET_BYTES <= len(key) <= LONGEST_SECRET_BYTES:
        wanted = f"{SHORTEST_SECRET_BYTES} to {LONGEST_SECRET_BYTES}"
        return [f"webhook_secret holds {len(key)} bytes, it must be {wanted}: {_NEW_SECRET}"]
    return []
