"""A port to listen on: taken for sure before anything else is begun."""

import contextlib
import errno
import logging
import socket
import time

from sluice import errors, settings

log = logging.getLogger("sluice")

WAIT_S = 5.0


class CannotStart(errors.SluiceError):
    """The process cannot begin to serve; exit code 2."""


def numeric(host: str, port: int) -> str:
    """The host's address, for a server that takes no names; check_port() binds the same one.

    Raises:
        CannotStart: it has none.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except OSError as error:
        raise CannotStart(f"listen on {host}:{port}: {error.strerror or error}") from error
    return str(found[0][4][0])


def taken(listen: settings.Address, wait: float = WAIT_S) -> settings.Address:
    """See that a port can be listened on, and which one it is where 0 is asked for.

    Raises:
        CannotStart: see check_port().
    """
    return settings.Address(listen.host, check_port(listen.host, listen.port, wait))


def check_port(host: str, port: int, wait: float = WAIT_S) -> int:
    """Bind the port once without sharing it: a server that shares would join another one.

    Returns the port; where 0 was given, one that was free.

    Raises:
        CannotStart: the port is taken, still after `wait` seconds, or is not ours to take.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    until = time.monotonic() + wait
    is_told = False
    while True:
        with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            # Only connections that linger from a server before us may be in the way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if time.monotonic() >= until or error.errno != errno.EADDRINUSE:
                    words = error.strerror or str(error)
                    raise CannotStart(f"listen on {host}:{port}: {words}") from error
                if not is_told:
                    is_told = True
                    log.warning(
                        "port %d of %s is taken; waiting up to %g s for it", port, host, wait
                    )
            else:
                return int(probe.getsockname()[1])
        time.sleep(0.05)
