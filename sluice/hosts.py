"""Which names a browser may have for this server, against DNS rebinding.

A web page whose name its owner points at this machine is, to the browser, of the same origin as
Sluice, and reads what it likes. The browser still sends the name in Host. Only a name that others
can register is dangerous: an IP address is none, nor is a name without a dot (a machine's or a
container's), nor one below a domain that public DNS does not have.

Sources: RFC 6761 and RFC 6762 for localhost and local, ICANN resolution 2024.07.29.06 for internal,
Kubernetes' DNS specification 1.1 for svc and cluster.local.
"""

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from sluice import errors

# A browser sends these types, or none, to any site without asking that site first. All others it
# sends only where the site's answer to OPTIONS allows them (Fetch standard, 2.2.2 "Headers").
UNASKED_TYPES = frozenset((
    "", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain",
))  # fmt: skip
PRIVATE = (".localhost", ".local", ".internal", ".svc", ".cluster.local")


class WrongHost(errors.SluiceError):
    """A request that came under a name that is not this server's."""

    status = 403


class WrongOrigin(errors.SluiceError):
    """A request that another site's page makes a browser send."""

    status = 403


def check_host(host: str, allowed: Iterable[str]) -> None:
    """See that a request came under a name of this server.

    Args:
        host: the request's Host, with or without a port; "" where there is none.
        allowed: names that are this server's; one that begins with a dot stands for all below it.

    Raises:
        WrongHost: it came under another one, which its owner may have pointed here.
    """
    name = name_of(host)
    if is_private(name):
        return
    for own in map(str.lower, allowed):
        if name == own.lstrip(".") or (own.startswith(".") and name.endswith(own)):
            return
    raise WrongHost(
        f"Host {host[:80]!r} is not a name of this server; if it is, start Sluice with"
        f" --allowed-host {name[:80]}"
    )


def check_origin(origin: str | None, site: str | None, host: str) -> None:
    """See that a request which changes something is not another site's.

    Args:
        origin, site: the headers Origin and Sec-Fetch-Site, None where absent: browsers send them,
            programs do not.
        host: the request's Host.

    Raises:
        WrongOrigin: a page of another site made a browser send it.
    """
    foreign = site is not None and site.lower() not in ("same-origin", "none")
    if origin is not None:
        foreign = foreign or site_of(origin) != host.lower()
    if foreign:
        raise WrongOrigin(f"sent by a page of {(origin or 'another site')[:80]!r}, not of {host!r}")


def check_unasked(content_type: str, origin: str | None, site: str | None, host: str) -> None:
    """Check that a page of another site did not make a browser send a request without asking.

    Args:
        content_type: the header, "" where absent.
        origin, site, host: as in check_origin().

    Raises:
        WrongOrigin: a page of another site did.
    """
    if content_type.partition(";")[0].strip().lower() in UNASKED_TYPES:
        check_origin(origin, site, host)


def site_of(origin: str) -> str:
    """Return host and port of an Origin header in small letters; "" if it has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def name_of(host: str) -> str:
    """The name in a Host header, in small letters, without port and without a dot at its end."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_private(name: str) -> bool:
    """Whether nobody can have registered a name in order to point it here."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(name) and ("." not in name or name.endswith(PRIVATE))
    return True
