"""Reads an answer of HTTP/1.1 exactly as RFC 9112 frames it.

Not http.client: it accepts `+204`, a head that is cut short and one of two different lengths, and
it swallows bytes behind an answer. Each of these lets an answer be taken for another push's, or a
push that was not stored be taken for stored.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

# Bytes of an answer's text that are kept. Loki's texts have a few hundred.
REPLY_MAX = 64 * 1024
# Bytes of a head, of all interim answers before it, and of a chunk's line or of trailers.
HEAD_MAX = 64 * 1024
# More digits make no length that anyone waits for.
LENGTH = re.compile(rb"[0-9]{1,18}")
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t -~\x80-\xff]*)?")
# The space before an empty reason is required, but servers leave it out; h11 accepts that, too.
STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: [\t -~\x80-\xff]*)?")
TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")
PROTOCOL = b"HTTP/1."
SWITCHING, NO_CONTENT, NOT_MODIFIED = 101, 204, 304
# What Loki says to nearly every push, in a tenth of the time. Date and Server come first because
# Loki and a gateway say little else. A name that concerns the framing is left to read().
PLAIN_204 = re.compile(
    rb"HTTP/1\.1 204(?: [\t -~\x80-\xff]*)?\r\n"
    rb"(?:(?:Date|Server): [\t -~\x80-\xff]*+\r\n"
    rb"|Connection: keep-alive\r\n"
    rb"|(?!(?i:connection|content-length|transfer-encoding):)" + TOKEN + rb":[\t -~\x80-\xff]*+\r\n"
    rb")*+\r\n"
)
# Characters shown of what is not HTTP.
SAMPLE = 40


class BadAnswer(Exception):
    """What came is not an answer; nothing that follows on the connection can be trusted."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What upstream answered; `body` is cut at REPLY_MAX bytes."""

    status: int
    body: bytes = b""
    content_type: str = ""
    retry_after: str = ""


class Reader:
    """Reads answers from a connection.

    Args:
        receive: gives the connection's next bytes, b"" at its end.
        received: what it has given already.
    """

    def __init__(self, receive: Callable[[], bytes], received: bytes = b"") -> None:
        self._receive, self._buffer = receive, received
        self._room = HEAD_MAX

    def read(self, *, is_tunnel: bool = False) -> tuple[Reply, bool]:
        """The next final answer, and whether the connection may be used again.

        Args:
            is_tunnel: it answers CONNECT; after success, what follows is the tunnel's.

        Raises:
            BadAnswer: it is cut short, or it is not HTTP/1.1. What `receive` raises.
        """
        self._room = HEAD_MAX
        minor, status, fields = self._head()
        while status < 200 and status != SWITCHING:
            # RFC 9110, 15.2: any number of interim answers may precede the final one.
            minor, status, fields = self._head()
        if is_tunnel and status < 300:
            # Whatever its head says of a body and of the connection: RFC 9110, 9.3.6.
            return Reply(status), not self._buffer
        is_last = minor == 0 or status == SWITCHING or b"close" in listed(fields, b"connection")
        if status in (SWITCHING, NO_CONTENT, NOT_MODIFIED):
            text, has_end = b"", True
            # A body that must not be there would be taken for the next answer.
            is_last |= b"transfer-encoding" in fields or length_of(fields) not in (None, 0)
        else:
            text, has_end = self._body(minor, fields)
        reply = Reply(status, text, first(fields, b"content-type"), first(fields, b"retry-after"))
        return reply, has_end and not is_last and not self._buffer

    def _head(self) -> tuple[int, int, dict[bytes, list[bytes]]]:
        """Minor version, status and fields of one head."""
        while len(self._buffer) < len(PROTOCOL) and PROTOCOL.startswith(self._buffer):
            self._more("the head")
        if not self._buffer.startswith(PROTOCOL):
            raise BadAnswer(not_http(self._buffer))
        line = self._line()
        match = STATUS_LINE.fullmatch(line)
        if match is None:
            raise BadAnswer(f"expected a status line, got {line[:SAMPLE]!r}")
        return int(match[1]), int(match[2]), self._fields()

    def _fields(self) -> dict[bytes, list[bytes]]:
        """Fields up to the empty line, by their names in lower case."""
        found: dict[bytes, list[bytes]] = {}
        while line := self._line():
            match = FIELD.fullmatch(line)
            if match is None:
                raise BadAnswer(f"expected a header, got {line[:SAMPLE]!r}")
            found.setdefault(match[1].lower(), []).append(match[2])
        return found

    def _body(self, minor: int, fields: dict[bytes, list[bytes]]) -> tuple[bytes, bool]:
        """The text, and whether all of it was read; RFC 9112, 6.3."""
        length = length_of(fields)
        if b"transfer-encoding" in fields:
            coding = b", ".join(fields[b"transfer-encoding"])
            if length is not None or minor == 0 or coding.lower() != b"chunked":
                raise BadAnswer(f"Transfer-Encoding {coding[:SAMPLE]!r} with another length")
            return self._chunks()
        if length is None:
            while len(self._buffer) <= REPLY_MAX and (more := self._receive()):
                self._buffer += more
            return self._buffer[:REPLY_MAX], False
        return self._bytes(min(length, REPLY_MAX)), length <= REPLY_MAX

    def _chunks(self) -> tuple[bytes, bool]:
        text = b""
        while len(text) <= REPLY_MAX:
            self._room = HEAD_MAX
            line = self._line()
            match = CHUNK_SIZE.fullmatch(line)
            if match is None:
                raise BadAnswer(f"expected the size of a chunk, got {line[:SAMPLE]!r}")
            size = int(match[1], 16)
            if size == 0:
                # The trailers. Nothing in them is for the shipper.
                self._fields()
                return text[:REPLY_MAX], len(text) <= REPLY_MAX
            text += self._bytes(min(size, REPLY_MAX + 1))
            if size <= REPLY_MAX + 1 and (end := self._bytes(2)) != b"\r\n":
                raise BadAnswer(f"expected the end of a chunk, got {end!r}")
        return text[:REPLY_MAX], False

    def _line(self) -> bytes:
        """The next line without its CRLF. A lone LF ends no line: RFC 9112, 2.2 only allows it."""
        start = 0
        while (end := self._buffer.find(b"\n", start)) < 0:
            start = len(self._buffer)
            if start > self._room:
                break
            self._more("a line")
        self._room -= end + 1
        if self._room < 0 or end < 0:
            raise BadAnswer(f"a head of more than {HEAD_MAX} bytes")
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        if not line.endswith(b"\r"):
            raise BadAnswer(f"expected CR LF behind {line[:SAMPLE]!r}")
        return line[:-1]

    def _bytes(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more(f"{size} bytes")
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def _more(self, wanted: str) -> None:
        more = self._receive()
        if not more:
            raise BadAnswer(f"the connection ended within {wanted} of its answer")
        self._buffer += more


def listed(fields: dict[bytes, list[bytes]], name: bytes) -> list[bytes]:
    """The items of a field that is a list, in lower case."""
    return [item.strip().lower() for value in fields.get(name, ()) for item in value.split(b",")]


def first(fields: dict[bytes, list[bytes]], name: bytes) -> str:
    """A field's first value, or ""."""
    return fields[name][0].decode("latin-1") if name in fields else ""


def length_of(fields: dict[bytes, list[bytes]]) -> int | None:
    """What Content-Length says, None if it is not there.

    Raises:
        BadAnswer: it is not a number, or there are two that differ.
    """
    values = set(listed(fields, b"content-length"))
    if not values:
        return None
    value = values.pop()
    if values or not LENGTH.fullmatch(value):
        raise BadAnswer(f"Content-Length {b', '.join(fields[b'content-length'])[:SAMPLE]!r}")
    return int(value)


def not_http(received: bytes) -> str:
    """Says what the first bytes of an answer are, if not HTTP/1."""
    # A TLS alert: what a TLS server says to a request that is not encrypted. RFC 8446, 5.1 and 6.
    if received.startswith(b"\x15\x03"):
        return "it speaks TLS: its URL begins with https://"
    return f"expected HTTP/1.1, got {received[:SAMPLE]!r}"
