"""Where an endpoint is: its address checked, and a connection that goes to the address that was checked.

The address may come out of somebody else's workflow file, so what lies inside this machine or its network is
refused unless it is allowed.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..errors import Cancelled, EndpointError, UnreachableError

KEY_VARIABLE = "EVLM_API_KEY"
PRIVATE_VARIABLE = "EVLM_ALLOW_PRIVATE_ENDPOINTS"
# The special-purpose registries of IPv4 and IPv6 addresses (iana.org/assignments/iana-ipv4-special-registry,
# iana-ipv6-special-registry), and what was in them once: nobody offers a service there, and a network may
# send such an address anywhere. `is_global` knows them in part, each version of Python another one.
_SPECIAL = [
    ipaddress.ip_network(each)
    for each in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
        "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
        "::/128", "::1/128", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23", "2001:db8::/32",
        "2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
]  # fmt: skip
_CARRIERS = [ipaddress.IPv6Network(each) for each in ("::/96", "64:ff9b::/96")]


@dataclass(frozen=True)
class Address:
    """`<scheme>://<host>:<port><path>`, the path ending in /chat/completions."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse_address(endpoint: str) -> Address:
    """Of "http(s)://host[:port][/v1]", with or without /chat/completions. Raises EndpointError."""
    try:
        parts = urlsplit(endpoint.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise EndpointError(
            f"endpoint {endpoint!r:.200} is no address ({error}); expected https://host/v1"
        ) from None
    if parts.scheme not in ("http", "https") or not host:
        raise EndpointError(f"endpoint {endpoint!r:.200}: expected http(s)://host[:port]/v1")
    if len(endpoint) > 2000 or len(host) > 253:
        raise EndpointError(f"endpoint {endpoint!r:.80} ...: {len(endpoint):,} characters are no address")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise EndpointError(f"an endpoint holds no names, keys or queries; set {KEY_VARIABLE} for the key")
    path = parts.path.rstrip("/")
    for part, text in (("host", host), ("path", path)):
        if any(letter.isspace() or not letter.isprintable() for letter in text) or (
            part == "path" and not text.isascii()
        ):
            raise EndpointError(
                f"endpoint {endpoint!r:.200}: its {part} holds characters that no address has"
            )
    if not path.endswith("/chat/completions"):
        path = f"{path or '/v1'}/chat/completions"
    return Address(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), path)


def connect(address: Address, key: str, allow_private: bool, timeout: float) -> http.client.HTTPConnection:
    """A connection to an address that was checked: the same one, not a second answer of the name server.

    key: what will be sent along, "" for nothing; it does not leave the house unencrypted. timeout: seconds
    without a byte. Raises EndpointError.
    """
    if key and not (key.isascii() and key.isprintable()):
        raise EndpointError(f"{KEY_VARIABLE} holds characters that no key has; set it again")
    try:
        entries = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnreachableError(
            f"{address.host} is not known ({error}); check the endpoint's address", broken=True
        ) from None
    numbers = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    private = [number for number in numbers if not is_public(number)]
    if private and not allow_private:
        raise EndpointError(
            f"{address.host} is {private[0]}, inside this machine or its network. If that is meant, set "
            f"{PRIVATE_VARIABLE}=1 in the environment"
        )
    if key and address.scheme == "http" and len(private) < len(numbers):
        raise EndpointError(
            f"{address.url} would get {KEY_VARIABLE} unencrypted; use https, or unset the key"
        )
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.host, address.port, timeout=timeout)
    failure: OSError | None = None
    for number in numbers:
        try:
            sock = socket.create_connection((number, address.port), min(timeout, 15.0))
            if address.scheme == "https":
                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=address.host)
        except OSError as error:
            failure = error
        else:
            sock.settimeout(timeout)
            connection.sock = sock
            return connection
    raise UnreachableError(
        f"{address.url} cannot be reached ({failure}); is the server running?", broken=True
    )


class Calls:
    """The calls that belong together, so that all of them can be ended from another thread.

    patience: how many of them a server may take one after the other; each is waited for so much longer.
    """

    def __init__(self, patience: int = 1) -> None:
        self.patience = patience
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    @contextmanager
    def call(self, connection: http.client.HTTPConnection) -> Iterator[None]:
        """A connection is in use; closed at the end. Raises Cancelled where the end has come."""
        sock: socket.socket = connection.sock  # it leaves its connection as soon as the answer begins
        with self._lock:
            self._open.add(sock)
        try:
            if self.ended.is_set():
                raise Cancelled
            yield
        finally:
            with self._lock:
                self._open.discard(sock)
            connection.close()

    def end(self) -> None:
        """No more calls, and whoever waits for a server waits no longer."""
        self.ended.set()
        with self._lock:
            for sock in self._open:
                with suppress(OSError):  # the server was quicker
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)  # below TLS, which another thread reads


def is_public(number: str) -> bool:
    """Whether a numeric IPv4 or IPv6 address lies outside this machine and its network."""
    address = ipaddress.ip_address(number.partition("%")[0])
    if any(address in network for network in _SPECIAL):
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = _carried(address)
        if inner is not None:
            return is_public(str(inner))
    return address.is_global and not address.is_multicast


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for: mapped, compatible, 6to4 or NAT64."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if any(address in network for network in _CARRIERS):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
