"""Where pushes go: upstream's URL, and the proxy on the way to it."""

import base64
import contextlib
import socket
import urllib.parse
from dataclasses import dataclass, field

from sluice import errors
from sluice.settings import Address

PUSH_PATH = "/loki/api/v1/push"
LEGACY_PATH = "/api/prom/push"
# How the path of an endpoint that is not Loki's ends.
ENDPOINTS = ("/push", "/write", "/insert")
DEFAULT_PORTS = {"http": 80, "https": 443}
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Destination:
    """Upstream's URL, taken apart.

    Attributes:
        authority: host and port as the URL has them, for the Host header.
        path, legacy_path: where pushes of each of Loki's two dialects go.
    """

    is_secure: bool
    host: str
    port: int
    authority: str
    path: str
    legacy_path: str

    @classmethod
    def parse(cls, url: str) -> "Destination":
        """Read the URL of an HTTP server.

        A path that ends like one of Loki's two leads to the other one beside it, too. One that
        ends like another server's endpoint is taken as it is. Any other is a prefix of Loki's two.

        Raises:
            BadRequest: it is not such a URL, or it is more than that.
        """
        parts = checked_url(url)
        prefix = parts.path.rstrip("/")
        path = legacy_path = prefix
        for family in (PUSH_PATH, LEGACY_PATH):
            prefix = prefix.removesuffix(family)
        if prefix != path or not path.endswith(ENDPOINTS):
            path, legacy_path = prefix + PUSH_PATH, prefix + LEGACY_PATH
        return cls(
            parts.scheme == "https",
            parts.hostname or "",
            parts.port or DEFAULT_PORTS[parts.scheme],
            parts.netloc,
            path,
            legacy_path,
        )

    def __str__(self) -> str:
        """Where pushes go, as a URL."""
        return f"http{'s' * self.is_secure}://{self.authority}{self.path}"

    @property
    def where(self) -> str:
        """Host and port, for people."""
        return str(Address(self.host, self.port))

    def target_for(self, target: str) -> str:
        """Where a push that came in on `target` goes: dialect and query stay as they were."""
        path, mark, query = target.partition("?")
        return (self.legacy_path if path == LEGACY_PATH else self.path) + mark + query

    def is_at(self, listen: Address) -> bool:
        """Whether a server that listens there would be sent its own pushes.

        A name that is not known yet leads nowhere so far.
        """
        if self.port != listen.port:
            return False
        with contextlib.suppress(OSError):
            for found in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
                ip = str(found[4][0])
                ip = ANY.get(ip, ip)
                if (listen.host in ANY or ip in addresses(listen)) and is_own(found[0], ip):
                    return True
        return False


def addresses(listen: Address) -> set[str]:
    """The addresses of a host to listen on; none if it has none."""
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM)
        return {str(one[4][0]) for one in found}
    return set()


def is_own(family: int, ip: str) -> bool:
    """Whether an address belongs to this machine: only then can a socket be bound to it."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((ip, 0))
    except OSError:
        return False
    return True


def checked_url(url: str) -> urllib.parse.SplitResult:
    """The parts of an upstream's URL.

    Raises:
        BadRequest: not the URL of an HTTP server, or more than that.
    """
    # A password, or a token behind the question mark, is not for the log.
    shown = "" if "@" in url or "?" in url else f" {url!r}"
    refusal = errors.BadRequest(f"upstream{shown}: expected an http:// or https:// URL")
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise refusal from None
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in DEFAULT_PORTS or not (host and is_plain):
        raise refusal
    if parts.username is not None or parts.query or parts.fragment:
        raise errors.BadRequest(
            "upstream: a URL with user, query or fragment; credentials are given with"
            " --upstream-header 'Authorization=...'"
        )
    try:
        # Asking for the port checks it.
        is_port = parts.port != 0
    except ValueError:
        is_port = False
    if not is_port:
        given = parts.netloc.rpartition(":")[2]
        raise errors.BadRequest(f"upstream{shown}: expected a port from 1 to 65535, got {given}")
    return parts


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy between Sluice and upstream.

    Attributes:
        authorization: the value of Proxy-Authorization, "" for none. Never shown.
    """

    host: str
    port: int
    authorization: str = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> "Proxy":
        """Read [http://][USER:PASSWORD@]HOST[:PORT].

        Raises:
            BadRequest: it is something else; nothing of it is shown.
        """
        refusal = errors.BadRequest(
            "HTTP_PROXY or HTTPS_PROXY: expected http://[USER:PASSWORD@]HOST:PORT with a port from"
            " 1 to 65535 (what is there is not shown: it may hold a password);"
            " NO_PROXY=HOST says that upstream is reached without it"
        )
        try:
            parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError:
            raise refusal from None
        if parts.scheme != "http" or not host or port == 0 or not host.isascii():
            raise refusal
        authorization = ""
        if parts.username is not None:
            user, password = (
                urllib.parse.unquote(p or "") for p in (parts.username, parts.password)
            )
            basic = base64.b64encode(f"{user}:{password}".encode()).decode()
            authorization = f"Basic {basic}"
        return cls(host, port or DEFAULT_PORTS["http"], authorization)

    def __str__(self) -> str:
        return f"http://{Address(self.host, self.port)}"
