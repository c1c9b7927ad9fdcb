"""gzip, deflate and zstd, undone within a bound.

Rule 1: nothing grows past the bound. zlib is asked for no more than is left of it, zstd
writes into a buffer of that size (and keeps a window, of as much again at the worst); 1 KB
that would become 4 GB stops there. A scratch takes the bytes of a push's claim before it grows.
Rule 2: deflate is read raw first, as Loki reads it, and as zlib's only where Loki could get
nothing from it. The other way round, one body could mean two things.
Rule 3: lenient means: what came out before an error is the result. Loki reads JSON as a
stream up to the end of the value and never sees a wrong checksum, a lost trailer or
garbage behind it. Protobuf it reads to the end.

Source: Go's compress/gzip and compress/flate as Loki 3.7.8 uses them; RFC 1950, 1951, 1952,
8878.
"""

import contextlib
import mmap
import zlib
from typing import NamedTuple

import cramjam

from sluice import errors, memory

# A body, or what is inside.
Body = bytes | bytearray | memoryview

# Bytes of input at a time, small at first; zlib hands back (copies) what it has not used.
PIECE_LEAST, PIECE = 1 << 10, 1 << 16
CHUNK = 1 << 20  # bytes of output at a time
# Loki takes any number. One costs 20 bytes to send and microseconds to read.
MEMBERS_MAX = 65_536

GZIP, RAW, WRAPPED = 31, -15, 15  # zlib's wbits
NAME = {GZIP: "gzip", RAW: "deflate", WRAPPED: "deflate"}

# RFC 8878 3.1.1: the frame header, and the bytes of its content size by descriptor bits 7-6.
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
CONTENT_SIZE_BYTES = (0, 2, 4, 8)
DICTIONARY_ID_BYTES = (0, 1, 2, 4)
SINGLE_SEGMENT = 0x20


# From this size on a buffer is mapped by itself. In malloc's heap, where buffers of megabytes lie
# between label strings that are kept, 14 pushes left 76 MiB behind that were never given back.
MAPPED_LEAST = 1 << 18


def new_buffer(n: int) -> bytearray | mmap.mmap:
    """Zeroed memory of `n` bytes; of a large one, pages that are not written to cost nothing."""
    if n < MAPPED_LEAST:
        return bytearray(n)
    return mmap.mmap(-1, n, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Scratch:
    """A buffer that grows with its largest use and is used again and again.

    Args:
        claim: what its bytes are taken from before it grows; None: they are not counted.

    Attributes:
        part: what it holds of the memory.

    Threads: one at a time.
    """

    def __init__(self, claim: memory.Claim | None = None) -> None:
        self._buffer: bytearray | mmap.mmap = bytearray()
        self.part = memory.Part(claim)

    def another(self) -> "Scratch":
        """A new scratch whose bytes are taken from the same claim."""
        return Scratch(self.part.claim)

    def room(self, n: int, beside: int = 0) -> memoryview:
        """At least `n` bytes to write to. What was in it is gone.

        Args:
            beside: bytes that are needed elsewhere to fill it.

        Raises:
            TooLarge, Unavailable: see memory.Claim.take().
        """
        self.part.use(n + beside)
        if len(self._buffer) < n:
            # Let go of the old one first. Views of it stay readable.
            self._buffer = bytearray()
            self._buffer = new_buffer(n)
        return memoryview(self._buffer)

    def view(self, n: int) -> memoryview:
        """The first `n` bytes, read only, valid until the next use."""
        return memoryview(self._buffer)[:n].toreadonly()

    def write(self, at: int, chunk: bytes) -> None:
        """Put `chunk` behind the first `at` bytes, which stay.

        Raises:
            TooLarge, Unavailable: see memory.Claim.take().
        """
        end = at + len(chunk)
        self.part.use(end + len(chunk))
        if end > len(self._buffer):
            self._grow(at, end + end // 2)
        self._buffer[at:end] = chunk

    def _grow(self, kept: int, n: int) -> None:
        if isinstance(self._buffer, mmap.mmap):
            # Somebody may still hold a view, so that it cannot grow in place.
            with contextlib.suppress(BufferError):
                self._buffer.resize(n)
                return
        old, self._buffer = self._buffer, new_buffer(n)
        self._buffer[:kept] = old[:kept]

    def detached(self, n: int) -> tuple[memoryview, int]:
        """The first `n` bytes, which belong to the caller, and the bytes that they hold.

        They hold the whole buffer: an earlier push may have written to more of it. The scratch is
        empty then.
        """
        self.part.used(n)
        buffer, self._buffer = self._buffer, bytearray()
        return memoryview(buffer)[:n], self.part.leave()

    def trim(self, keep: int) -> None:
        """Give the memory back if it is more than `keep` bytes."""
        if len(self._buffer) > keep:
            self._buffer = bytearray()
            self.part.drop()


class Bound(NamedTuple):
    """At most `bytes` may come out; the setting that says so is `named` in a refusal."""

    bytes: int
    named: int

    def passed(self) -> errors.TooLarge:
        """The refusal of a push that holds more."""
        return too_large(self.named + 1, self.named, "at least ")


def too_large(size: int, limit: int, more: str = "") -> errors.TooLarge:
    """The refusal of a push that decodes to more than it may."""
    return errors.TooLarge(f"the push decodes to {more}{size} bytes, at most {limit} are allowed")


def undo(
    body: Body, coding: str, bound: Bound, scratch: Scratch, lenient: bool
) -> tuple[int, bool]:
    """Undo one content coding, gzip, deflate or zstd, into the scratch.

    Returns:
        the number of bytes, and whether Loki gets the same from the body.

    Raises:
        BadPush: the body is not in that coding. TooLarge: it holds more bytes than `bound` allows.
    """
    if coding == "zstd":
        return _unzstd(body, bound, scratch), True
    if coding == "gzip":
        return _inflate(body, GZIP, bound, scratch, lenient), True
    try:
        return _inflate(body, RAW, bound, scratch, lenient), True
    except errors.BadPush:
        is_wrapped = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
        if not is_wrapped:
            raise
    return _inflate(body, WRAPPED, bound, scratch, lenient=False), False


class _Output:
    """Decoded bytes on their way into the scratch, up to the limit."""

    def __init__(self, scratch: Scratch, bound: Bound) -> None:
        self._scratch, self._bound = scratch, bound
        self.size = 0

    def ask(self) -> int:
        """How many bytes to decode next: enough to see that the limit is passed, no more."""
        return min(CHUNK, self._bound.bytes + 1 - self.size)

    def add(self, chunk: bytes) -> None:
        if self.size + len(chunk) > self._bound.bytes:
            raise self._bound.passed()
        self._scratch.write(self.size, chunk)
        self.size += len(chunk)


def _inflate(body: Body, wbits: int, bound: Bound, scratch: Scratch, lenient: bool) -> int:
    """Undo gzip, of any number of members, or deflate, up to the end of its last block."""
    output = _Output(scratch, bound)
    at, piece_bytes, ended, members = 0, PIECE_LEAST, False, 1
    engine = zlib.decompressobj(wbits)
    try:
        while at < len(body) and not (ended and wbits != GZIP):
            if ended:
                members += 1
                if members > MEMBERS_MAX:
                    raise errors.BadPush(
                        f"Content-Encoding gzip: more than {MEMBERS_MAX} members,"
                        f" after {at} of {len(body)} bytes"
                    )
                # Small again: a body of tiny members must not copy its rest for each.
                engine, piece_bytes = zlib.decompressobj(wbits), PIECE_LEAST
            piece = body[at : at + piece_bytes]
            at += len(piece)
            _drain(engine, piece, output, lenient)
            at -= len(engine.unused_data)
            ended = engine.eof
            piece_bytes = min(2 * piece_bytes, PIECE)
        problem = "" if ended else "it ends too early"
    except zlib.error as error:
        problem = str(error)
    if problem and not (lenient and output.size):
        raise errors.BadPush(
            f"Content-Encoding {NAME[wbits]}: {problem}, after {at} of {len(body)} bytes"
        )
    return output.size


def _drain(engine: "zlib._Decompress", piece: Body, output: _Output, lenient: bool) -> None:
    """Decode all that a piece of input has."""
    while True:
        asked = output.ask()
        before = engine.copy() if lenient else None
        try:
            chunk = engine.decompress(piece, asked)
        except zlib.error:
            # zlib keeps for itself what it decoded before the error. Byte by byte it does not.
            if before is not None:
                with contextlib.suppress(zlib.error):
                    for at in range(len(piece)):
                        output.add(before.decompress(piece[at : at + 1]))
            raise
        output.add(chunk)
        piece = engine.unconsumed_tail
        if engine.eof or (not piece and len(chunk) < asked):
            return


def _unzstd(body: Body, bound: Bound, scratch: Scratch) -> int:
    """Undo zstd frames. Few senders declare a size, so the room grows until it fits."""
    declared, limit = _declared_size(body), bound.bytes
    if declared > limit:
        raise too_large(declared, bound.named)
    room = declared or min(limit, max(PIECE, 4 * len(body)))
    while (size := _unzstd_into(body, scratch.room(room, beside=room), limit)) is None:
        if room == limit:
            raise bound.passed()
        room = min(limit, 4 * room)
    scratch.part.used(size)
    return size


def _unzstd_into(body: Body, buffer: memoryview, limit: int) -> int | None:
    """The number of bytes decoded, or None if there are more than fit."""
    try:
        size: int = cramjam.zstd.decompress_into(body, buffer[:limit])
    except cramjam.DecompressionError as error:
        if "whole buffer" in str(error):
            return None
        raise errors.BadPush(f"Content-Encoding zstd, {len(body)} bytes: {error}") from None
    return size


def _declared_size(body: Body) -> int:
    """The content size in the header of the first frame, 0 if there is none."""
    if len(body) < 5 or body[:4] != ZSTD_MAGIC:
        return 0
    descriptor = body[4]
    single = bool(descriptor & SINGLE_SEGMENT)
    n = CONTENT_SIZE_BYTES[descriptor >> 6] or single
    at = 5 + (not single) + DICTIONARY_ID_BYTES[descriptor & 3]
    size = int.from_bytes(body[at : at + n], "little")
    return size + 256 if n == 2 else size
