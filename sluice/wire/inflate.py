"""gzip, deflate and zstd, undone within a bound.

Rule 1: nothing grows past the bound. zlib is asked for no more than is left of it, zstd
writes into a buffer of that size; 1 KB that would become 4 GB stops there.
Rule 2: deflate is read raw first, as Loki reads it, and as zlib's only where Loki could get
nothing from it. The other way round, one body could mean two things.
Rule 3: lenient means: what came out before an error is the result. Loki reads JSON as a
stream up to the end of the value and never sees a wrong checksum, a lost trailer or
garbage behind it. Protobuf it reads to the end.

Source: Go's compress/gzip and compress/flate as Loki 3.7.8 uses them; RFC 1950, 1951, 1952,
8878.
"""

import contextlib
import zlib
from typing import Protocol

import cramjam

from sluice import errors

PIECE = 1 << 16  # bytes of input at a time; zlib hands back (copies) what it has not used
CHUNK = 1 << 20  # bytes of output at a time

GZIP, RAW, WRAPPED = 31, -15, 15  # zlib's wbits

# RFC 8878 3.1.1: the frame header, and the bytes of its content size by descriptor bits 7-6.
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
CONTENT_SIZE_BYTES = (0, 2, 4, 8)
DICTIONARY_ID_BYTES = (0, 1, 2, 4)
SINGLE_SEGMENT = 0x20


class Scratch:
    """A buffer that grows with its largest use and is used again and again.

    Threads: one at a time.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def room(self, n: int) -> bytearray:
        """At least `n` bytes to write to. What was in it is gone."""
        if len(self._buffer) < n:
            # Let go of the old one first. Views of it stay readable.
            self._buffer = bytearray()
            self._buffer = bytearray(n)
        return self._buffer

    def view(self, n: int) -> memoryview:
        """The first `n` bytes, read only, valid until the next use."""
        return memoryview(self._buffer)[:n].toreadonly()

    def write(self, at: int, chunk: bytes) -> None:
        """Put `chunk` behind the first `at` bytes, which stay."""
        try:
            self._buffer[at : at + len(chunk)] = chunk
        except BufferError:
            # Somebody still holds a view, so it cannot grow in place.
            self._buffer = self._buffer[:at] + chunk

    def trim(self, keep: int) -> None:
        """Give the memory back if it is more than `keep` bytes."""
        if len(self._buffer) > keep:
            self._buffer = bytearray()


class _Engine(Protocol):
    """zlib.decompressobj(), whose type has no name at run time."""

    eof: bool
    unused_data: bytes
    unconsumed_tail: bytes

    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes: ...
    def copy(self) -> "_Engine": ...


def too_large(size: int, limit: int, more: str = "") -> errors.TooLarge:
    """The refusal of a push that decodes to more than it may."""
    return errors.TooLarge(f"the push decodes to {more}{size} bytes, at most {limit} are allowed")


def undo(
    body: bytes, coding: str, limit: int, scratch: Scratch, lenient: bool
) -> tuple[int, bool]:
    """Undo one content coding, gzip, deflate or zstd, into the scratch.

    Returns:
        the number of bytes, and whether Loki gets the same from the body.

    Raises:
        BadPush: the body is not in that coding. TooLarge: it holds more than `limit` bytes.
    """
    if coding == "zstd":
        return _unzstd(body, limit, scratch), True
    if coding == "gzip":
        return _inflate(body, GZIP, limit, scratch, lenient), True
    try:
        return _inflate(body, RAW, limit, scratch, lenient), True
    except errors.BadPush:
        is_wrapped = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
        if not is_wrapped:
            raise
    return _inflate(body, WRAPPED, limit, scratch, lenient=False), False
