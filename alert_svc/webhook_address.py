"""Where a webhook may lead: a host's addresses looked up and judged at each try, and a connection to exactly one of these."""

import asyncio
import ipaddress
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import httpx

MOST_ADDRESSES = 3
LOOKUP_WITHIN_S = 5.0
LOOKUPS_AT_ONCE = 4
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address through a translator
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291, 2.4: all others mean something special
_DEPRECATED = (ipaddress.ip_network("192.88.99.0/24"), ipaddress.ip_network("3fff::/20"))  # RFC 7526, RFC 9637


class PinnedConnections:
    """Connects to addresses that were looked up and judged for this very request, so that a name that leads elsewhere a moment
    later leads nowhere. Host header and TLS name stay those of the URL; no proxy, no cookie, no redirect, no connection kept.

    Unless `private`, only public addresses are used. Up to three addresses are tried, the next one only when no connection came
    about. `tls`: what a receiver's certificate is checked with, the usual authorities unless given.
    """

    def __init__(self, private: bool, lookup: Lookup | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._private = private
        self._lookup = lookup or SystemLookup().look_up
        self._tls = tls or httpx.create_ssl_context()

    @asynccontextmanager
    async def answer(self, request: httpx.Request) -> AsyncIterator[httpx.Response]:
        """Sends it and gives the answer, whose body is not read yet; the connection is closed at the end of the block, also by a
        cancellation. Raises httpx.HTTPError; a ConnectError that names what was found when no address may be used."""
        host = request.url.raw_host.decode("ascii").strip("[]")
        found = await self._lookup(host, request.url.port or (443 if request.url.scheme == "https" else 80))
        allowed = [address for address in dict.fromkeys(found) if self._private or is_public(address)]
        if not allowed:
            what = f"not public: {', '.join(found[:3])}; webhook_private allows it" if found else "none"
            raise httpx.ConnectError(f"the addresses of {host} are {what}")
        async with httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False) as transport:
            response = await _first(transport, [_pinned(request, address, host) for address in allowed[:MOST_ADDRESSES]])
            try:
                yield response
            finally:
                await response.aclose()


async def _first(transport: httpx.AsyncHTTPTransport, requests: Sequence[httpx.Request]) -> httpx.Response:
    for request in requests[:-1]:
        with suppress(httpx.ConnectError, httpx.ConnectTimeout):
            return await transport.handle_async_request(request)
    return await transport.handle_async_request(requests[-1])


def _pinned(request: httpx.Request, address: str, host: str) -> httpx.Request:
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host},
    )


def is_public(address: str) -> bool:
    """Whether an IP address, as text, is one of the public internet: no loopback, private, shared, link-local, multicast,
    reserved or unspecified one, neither in an IPv6 address that stands for an IPv4 one (mapped, NAT64, 6to4)."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        embedded = parsed.ipv4_mapped or parsed.sixtofour
        if parsed in _NAT64:
            embedded = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
        if embedded:
            return is_public(str(embedded))
        if parsed.scope_id or parsed not in _GLOBAL_UNICAST:
            return False
    special = parsed.is_multicast or parsed.is_reserved or parsed.is_private or any(parsed in net for net in _DEPRECATED)
    return parsed.is_global and not special


class SystemLookup:
    """Asks the system's resolver, on threads that nobody waits for when the process ends: a resolver that does not answer holds
    up neither a pool that others use nor our stopping. At most 4 questions are open at a time."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(LOOKUPS_AT_ONCE)

    async def look_up(self, host: str, port: int) -> list[str]:
        """The host's addresses as the system orders them. Raises httpx.ConnectError when it has none, httpx.ConnectTimeout when
        they are not known within 5 s."""
        try:
            async with asyncio.timeout(LOOKUP_WITHIN_S):
                await self._free.acquire()
                return await self._ask(host, port)
        except TimeoutError:
            raise httpx.ConnectTimeout(f"no addresses of {host} within {LOOKUP_WITHIN_S:g} s") from None

    def _ask(self, host: str, port: int) -> "asyncio.Future[list[str]]":
        """Asks on a new thread, which frees its place when it ends, whether or not anybody still wants the answer."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def end(found: list[str], problem: str) -> None:
            self._free.release()
            if answer.done():
                return
            if problem:
                answer.set_exception(httpx.ConnectError(problem))
            else:
                answer.set_result(found)

        def ask() -> None:
            found, problem = [], ""
            try:
                found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
            except (OSError, UnicodeError) as error:
                problem = f"the addresses of {host} cannot be looked up: {error}"
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(end, found, problem)

        threading.Thread(target=ask, name="webhook-lookup", daemon=True).start()
        return answer
