"""Where a webhook may go: an address on the public internet, unless WEBHOOK_ALLOW_PRIVATE is on.

Registering reads only how the address is written. A name is looked up once for each delivery: all its
addresses are checked, and the connection is made to one of exactly those, so that a name that answers
differently the next time gains nothing.
"""

import asyncio
import ipaddress
import re
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import httpx
from django.conf import settings

MAX_LENGTH = 500
# Seconds to look a name up. The system's resolver cannot be interrupted: its thread goes on for a while.
LOOK_UP_TIMEOUT = 5.0
# Threads that look names up, at most: for one client, and in one process.
LOOK_UPS_PER_CLIENT = 4
LOOK_UPS = 64

A_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# What some programs read as an address: 2130706433, 0x7f000001, 127.1
A_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
# Names that mean something in somebody's own network only. Others may, too: the look-up tells.
LOCAL_NAMES = ("localhost", "local", "internal", "intranet", "lan", "home.arpa")

# Not the public internet (IANA's special-purpose registries), whatever Python's own tables of the day say.
NOT_PUBLIC_V4 = [
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, and the metadata services of clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
]
# Everything else of version 6 is loopback, private, link-local, multicast, or an address of version 4 in
# disguise (mapped, compatible, NAT64).
PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
NOT_PUBLIC_V6 = [
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, with Teredo among them
        "2001:db8::/32",
        "2002::/16",  # 6to4: an address of version 4 in disguise
        "3fff::/20",
    )
]


class BadTarget(ValueError):
    """A webhook may not go there, or the name is not known. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """An address that is well-formed. Whether it is public shows when its name is looked up."""

    url: httpx.URL
    # As it goes over the wire: lower case, IDNA-encoded, without brackets.
    host: str
    port: int

    def __str__(self) -> str:
        return str(self.url)


def read_target(text: str) -> Target:
    """The address as httpx reads it, which is also what calls it. Looks no name up. Raises BadTarget.

    What is the same address is written the same: the host in lower case, the path at least `/`, no port
    that goes without saying.
    """
    if len(text) > MAX_LENGTH:
        raise BadTarget(f"An address has at most {MAX_LENGTH} characters.")
    if not text.isprintable() or " " in text or "\\" in text:
        raise BadTarget("An address has no blanks, backslashes or control characters.")
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise BadTarget(f"This is not a valid address: {error}") from error
    if url.scheme != "https" and not (settings.WEBHOOK_ALLOW_PRIVATE and url.scheme == "http"):
        raise BadTarget("Give an address that begins with https://")
    if url.userinfo or "@" in url.netloc.decode():
        raise BadTarget("Leave out the user name and password: requests are signed instead.")
    if "#" in text:
        raise BadTarget("Leave out the # and what follows it.")
    port = url.port or {"https": 443, "http": 80}[url.scheme]
    if url.port == 0 or port > 65535:
        raise BadTarget("A port is a number from 1 to 65535.")
    host = _read_host(url.raw_host.decode())
    url = url.copy_with(host=host, raw_path=url.raw_path)
    if len(str(url)) > MAX_LENGTH:
        raise BadTarget(f"An address has at most {MAX_LENGTH} characters, when it is written in ASCII.")
    return Target(url, host, port)


def _read_host(host: str) -> str:
    """The host. Raises BadTarget for one that is neither an address in its usual form nor a full name."""
    if _is_address(host):
        _check_public(host, [host])
        return str(ipaddress.ip_address(host))
    if host.endswith("."):
        raise BadTarget("Leave out the dot at the end of the host name.")
    labels = host.split(".")
    if len(host) > 253 or not all(A_LABEL.fullmatch(label) for label in labels):
        raise BadTarget(f"{host!r} is not a host name.")
    if A_NUMBER.fullmatch(labels[-1]):
        raise BadTarget(f"{host!r} is not a host name; an IP address is written like 198.51.100.7.")
    is_local = len(labels) == 1 or f".{host}".endswith(tuple(f".{name}" for name in LOCAL_NAMES))
    if is_local and not settings.WEBHOOK_ALLOW_PRIVATE:
        raise BadTarget(f"{host} does not lead to the public internet.")
    return host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Whether the IP address is one of the public internet."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # such as one with a zone, which only this machine knows
        return False
    if isinstance(found, ipaddress.IPv4Address):
        return found.is_global and not any(found in network for network in NOT_PUBLIC_V4)
    return (
        found.is_global
        and found.scope_id is None
        and found in PUBLIC_V6
        and not any(found in network for network in NOT_PUBLIC_V6)
    )


def _check_public(host: str, addresses: list[str]) -> None:
    if settings.WEBHOOK_ALLOW_PRIVATE:
        return
    for address in addresses:
        if not is_public(address):
            # What a name leads to shows at a delivery only, whose errors staff alone may read.
            found = "" if address == host else f": it is {address}"
            raise BadTarget(f"{host} does not lead to the public internet{found}.")


# --- looking names up --------------------------------------------------------------------------------------


def look_up(host: str, port: int) -> list[str]:
    """The addresses of the host, in the order they should be tried. Blocks. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Resolver:
    """Looks names up on threads, of which each client has a share: names of one client's that nobody answers
    for hold up nobody else. A place is free again when its thread is, not when somebody stops waiting."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(LOOK_UPS)
        self._shares: defaultdict[int, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(LOOK_UPS_PER_CLIENT)
        )

    async def find_addresses(self, target: Target, *, client_id: int) -> list[str]:
        """The target's addresses, looked up once and all of them checked. An IP address is only checked.
        Raises BadTarget."""
        if _is_address(target.host):
            addresses = [target.host]
        else:
            try:
                async with asyncio.timeout(LOOK_UP_TIMEOUT):
                    addresses = await asyncio.wrap_future(await self._begin(target, client_id))
            except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
                raise _explain(target, error) from error
        if not addresses:
            raise BadTarget(f"{target.host} has no address.")
        _check_public(target.host, addresses)
        return addresses

    async def _begin(self, target: Target, client_id: int) -> "Future[list[str]]":
        """Begin a look-up as soon as the client has a place for it."""
        taken: list[asyncio.Semaphore] = []
        try:
            for places in (self._shares[client_id], self._places):
                await places.acquire()
                taken.append(places)
            return _look_up_aside(target, partial(_give_back, asyncio.get_running_loop(), taken))
        except BaseException:
            for places in taken:
                places.release()
            raise


def _look_up_aside(target: Target, when_free: Callable[[object], None]) -> "Future[list[str]]":
    """Look the name up on a thread of its own, which does not keep a process that ends from ending."""
    found: Future[list[str]] = Future()
    found.set_running_or_notify_cancel()  # nobody can call it off: the thread's end is what counts
    found.add_done_callback(when_free)

    def run() -> None:
        try:
            addresses = look_up(target.host, target.port)
        except Exception as error:
            found.set_exception(error)
        else:
            found.set_result(addresses)

    threading.Thread(target=run, name="look-up", daemon=True).start()
    return found


def _give_back(loop: asyncio.AbstractEventLoop, places: Iterable[asyncio.Semaphore], _: object) -> None:
    # A loop that has ended has nobody left who waits.
    with suppress(RuntimeError):
        for each in places:
            loop.call_soon_threadsafe(each.release)


def _explain(target: Target, error: Exception) -> BadTarget:
    if isinstance(error, TimeoutError):
        return BadTarget(f"{target.host} could not be looked up within {LOOK_UP_TIMEOUT:.0f} s.")
    return BadTarget(f"{target.host} cannot be found: check the host name.")
