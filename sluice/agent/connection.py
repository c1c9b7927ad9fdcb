"""A connection to upstream: TCP, a proxy's tunnel and TLS, all of it within one deadline."""

import contextlib
import errno
import os
import random
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from sluice.agent.certificates import Certificates
from sluice.agent.destination import Destination, Proxy
from sluice.agent.http_response import PLAIN_204, BadAnswer, Reader, Reply
from sluice.settings import Address
from sluice.wire import loki

RECEIVE = 16 * 1024
# What sending or receiving raises when the other side has closed the connection.
CLOSED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
# OpenSSL's names for bytes that are not TLS. 3.2 and later have the last one.
NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG",
           "RECORD_LAYER_FAILURE")  # fmt: skip


class HungUp(ConnectionError):
    """Upstream closed the connection before any byte of its answer.

    `was_reused`: there had been other exchanges on it. Then upstream has most likely closed it for
    being idle, before it saw the request.
    """

    def __init__(self, was_reused: bool) -> None:
        super().__init__("the connection was closed before an answer")
        self.was_reused = was_reused


class Connection:
    """A connection to upstream, for one exchange at a time.

    Args:
        deadline: monotonic seconds by which it must stand, and by which an exchange must be over;
            set for each exchange. A socket's own timeout begins again with every byte.
        ends_at: monotonic seconds after which it is not to be used any more.
        note: called with the connection before it is made, so that another thread can abort() it.

    Raises:
        OSError: not in time, or not at all; so do all methods.
    """

    def __init__(
        self,
        to: Destination,
        tls: Certificates | None,
        proxy: Proxy | None,
        deadline: float,
        ends_at: float,
        note: Callable[["Connection"], None] = lambda _: None,
    ) -> None:
        self.deadline, self.ends_at = deadline, ends_at
        self._is_used = self._is_aborted = False
        self.sock = socket.socket()
        try:
            note(self)
            if proxy:
                self._connect(proxy.host, proxy.port)
            else:
                self._connect(to.host, to.port)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                if proxy:
                    self._tunnel(to, proxy)
                self._encrypt(to.host, tls)
        except BaseException:
            self.close()
            raise

    def _connect(self, host: str, port: int) -> None:
        """Connect to the first address that answers; each has its share of the time left.

        A service's pods are all of its addresses. Whoever begins with the first one leaves the
        others idle.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # The order of families is the system's preference: RFC 6724.
        families = {family: i for i, (family, *_) in reversed(list(enumerate(found)))}
        random.shuffle(found)
        found.sort(key=lambda one: families[one[0]])
        for i, (family, kind, protocol, _, address) in enumerate(found):
            self.close()
            self.sock = socket.socket(family, kind, protocol)
            try:
                self._reach(address, self.left() / (len(found) - i))
            except OSError:
                if i == len(found) - 1:
                    raise
            else:
                return
        raise OSError(f"{host} has no address")

    def _reach(self, address: Any, seconds: float) -> None:
        """Connect the socket. Wherever abort() comes in between, this ends at once."""
        self.sock.setblocking(False)
        begun = self.sock.connect_ex(address)
        # From here on a shutdown ends the wait; one that came before had nothing to end.
        self._check_open()
        if begun == errno.EINPROGRESS:
            poll = select.poll()
            poll.register(self.sock, select.POLLOUT)
            if not poll.poll(seconds * 1000):
                raise TimeoutError(errno.ETIMEDOUT, "no connection in time")
            begun = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._check_open()
        if begun:
            raise OSError(begun, os.strerror(begun))
        self.sock.settimeout(self.left())

    def _check_open(self) -> None:
        """Check that abort() was not called.

        Raises:
            ConnectionAbortedError: it was.
        """
        if self._is_aborted:
            raise ConnectionAbortedError(errno.ECONNABORTED, "given up")

    def _tunnel(self, to: Destination, proxy: Proxy) -> None:
        """Have the proxy connect us to upstream: RFC 9110, 9.3.6."""
        where = Address(to.host, to.port)
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
        if proxy.authorization:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        self.send("\r\n".join([*lines, "", ""]).encode("ascii"), b"")
        reply, is_open = Reader(self._receive).read(is_tunnel=True)
        if not 200 <= reply.status < 300:
            raise BadAnswer(f"the proxy {proxy} answers CONNECT with {reply.status}")
        if not is_open:
            raise BadAnswer(f"the proxy {proxy} sends more than an answer to CONNECT")

    def _encrypt(self, host: str, tls: Certificates) -> None:
        context = tls.context()
        self.sock.settimeout(self.left())
        try:
            # The handshake apart, so that abort() has the socket meanwhile.
            self.sock = encrypted = context.wrap_socket(
                self.sock, server_hostname=host, do_handshake_on_connect=False
            )
            self._check_open()
            encrypted.do_handshake()
        except ssl.SSLCertVerificationError:
            tls.distrust()
            raise
        except ssl.SSLError as error:
            if error.reason in NOT_TLS:
                raise BadAnswer("it does not speak TLS: its URL begins with http://") from error
            raise

    def left(self) -> float:
        """Seconds until the deadline."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the exchange took too long")
        return left

    def is_idle(self) -> bool:
        """Whether it is open, and upstream has nothing to say: no farewell either."""
        sock = self.sock
        if sock.fileno() < 0 or (isinstance(sock, ssl.SSLSocket) and sock.pending()):
            return False
        poll = select.poll()
        poll.register(sock, select.POLLIN | select.POLLHUP)
        return not poll.poll(0)

    def exchange(self, head: bytes, body: loki.Body) -> Reply:
        """Send a request and receive its answer; closes what is not to be used again.

        Raises:
            HungUp: upstream closed the connection before any byte of an answer.
            BadAnswer: it is not HTTP.
        """
        was_reused, self._is_used = self._is_used, True
        is_sent = True
        try:
            self.send(head, body)
        except CLOSED:
            # It may have refused the body, which it need not read to its end: RFC 9112, 9.5.
            is_sent = False
        try:
            received = self._receive()
        except CLOSED:
            received = b""
        if not received:
            raise HungUp(was_reused)
        # What Loki says to nearly every push.
        if is_sent and PLAIN_204.fullmatch(received):
            return Reply(204)
        reply, is_open = Reader(self._receive, received).read()
        if not is_sent and reply.status < 300:
            raise BadAnswer(f"it answers {reply.status} to a push that it has not read")
        if not (is_sent and is_open):
            self.close()
        return reply

    def send(self, head: bytes, body: loki.Body) -> None:
        """Send a request; over plain TCP in one piece, as far as the kernel takes it."""
        sent = 0
        if not isinstance(self.sock, ssl.SSLSocket):
            self.sock.settimeout(self.left())
            sent = self.sock.sendmsg((head, body))
        for part in (head, body):
            rest, sent = memoryview(part)[sent:], max(0, sent - len(part))
            while rest:
                self.sock.settimeout(self.left())
                rest = rest[self.sock.send(rest) :]

    def _receive(self) -> bytes:
        """The next bytes, b"" at the end."""
        self.sock.settimeout(self.left())
        return self.sock.recv(RECEIVE)

    def close(self) -> None:
        """Close it, whatever was going on."""
        self.sock.close()

    def abort(self) -> None:
        """End what another thread waits for, which then raises OSError, and let nothing begin."""
        self._is_aborted = True
        with contextlib.suppress(OSError):
            # Of TLS too: its own method would take the encryption from under that thread.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
