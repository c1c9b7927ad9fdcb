"""TLS towards upstream: trusted and own certificates, read again when their files change."""

import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sluice import errors

# A certificate that cannot be verified has the files read again at most this often: reading the
# system's authorities takes 10 ms and more.
REREAD_S = 1.0


class Certificates:
    """Makes the TLS context of new connections.

    Args:
        ca: a file of certificates to trust instead of the system's.
        cert: a file with our own certificate, for an upstream that asks for one.
        key: the file of its private key; None: it is in `cert`.

    Attributes:
        complaint: why files that have changed cannot be used, "" if they can. The last good ones
            stay in force.

    Raises:
        BadRequest: a file cannot be used.

    Threads: any number.
    """

    def __init__(
        self,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ca, self._cert, self._key = ca, cert, key
        self._monotonic = monotonic
        self._lock = threading.Lock()
        system = ssl.get_default_verify_paths()
        trusted = (ca,) if ca else (system.cafile, system.capath)
        self._files = [file for file in (*trusted, cert, key) if file]
        self._seen = self._identity()
        self._read_at = monotonic()
        self.complaint = ""
        self._context = self._read()

    def context(self) -> ssl.SSLContext:
        """The context for a new connection; reads the files again if they have changed."""
        with self._lock:
            seen = self._identity()
            if seen != self._seen:
                # Before reading: what changes meanwhile is read again.
                self._seen, self._read_at = seen, self._monotonic()
                try:
                    self._context, self.complaint = self._read(), ""
                except errors.BadRequest as error:
                    self.complaint = error.message
            return self._context

    def distrust(self) -> None:
        """Have the files read again though they look the same: a certificate was not verified."""
        with self._lock:
            if self._monotonic() - self._read_at >= REREAD_S:
                self._seen = []

    def _identity(self) -> list[tuple[int, ...]]:
        """What changes when a file does; Kubernetes replaces files by swapping a symlink."""
        found: list[tuple[int, ...]] = []
        for file in self._files:
            try:
                stat = Path(file).stat()
            except OSError:
                found.append(())
            else:
                found.append((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return found

    def _read(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._ca)
        except OSError as error:
            raise errors.BadRequest(f"upstream certificates {self._ca}: {error}") from error
        if self._cert:
            files = self._cert if self._key is None else f"{self._cert} and {self._key}"
            try:
                # OpenSSL would ask for the password of a key on the terminal.
                context.load_cert_chain(self._cert, self._key, password=refuse)
            except (OSError, ValueError) as error:
                raise errors.BadRequest(f"upstream client certificate {files}: {error}") from error
        return context


def refuse() -> bytes:
    """What load_cert_chain() calls for the password of a key.

    Raises:
        ValueError: always.
    """
    raise ValueError("the key has a password, which Sluice cannot be told")
