"""Loki pushes: bodies as received <-> decoded bytes. No I/O, no parsing of what is inside.

Rule 1: what Loki takes is taken, and read as the same bytes; the dialect above all follows
Loki to the letter, or one body could mean two things. Taken besides: identity, x-gzip, any
case of the names, zlib-wrapped deflate (Vector), zstd.
Rule 2: limits come before memory. A declared length is compared before anything is
allocated, and what declares none is decoded piece by piece up to the limit.

    protobuf   a snappy block (never framed), whatever Content-Encoding says beside it
    JSON       plain; Loki ignores the word snappy there

Source: Loki 3.7.8 pkg/loghttp/push/push.go (parsePushRequestBody), pkg/util/http.go,
pkg/loghttp/versions.go; Go's mime.ParseMediaType; checked against both.
"""

import enum
import re
from typing import NamedTuple

import cramjam

from sluice import errors
from sluice.wire import inflate

Scratch = inflate.Scratch
new_buffer = inflate.new_buffer

# What is sent on: a body as received, or what stands in its place.
Body = inflate.Body

FAST = 1  # gzip level; 1 MB of log lines took 3 ms, with zlib at its level 1 6 ms

V1_PATH = "/loki/api/v1"
JSON_TYPE = "application/json"
SNAPPY_MOST = 22  # bytes out for one in, at the most: a copy of 64 takes three

# RFC 9110 names -> the names under which Loki takes them. The rest is not for Loki.
_CODINGS = {
    "": "",
    "identity": "",
    "snappy": "snappy",
    "gzip": "gzip",
    "x-gzip": "gzip",
    "deflate": "deflate",
    "zstd": "zstd",
}
_LOKI_TAKES = frozenset(("", "snappy", "gzip", "deflate"))

_TOKEN = r"[a-zA-Z0-9!#$%&'*+.^_`{|}~-]++"
_SPACES = r"[ \t\r\n\v\f]*+"
# A backslash that has nothing to escape stands for itself (Microsoft's paths).
_QUOTED = r'"(?>(?:[^"\\\r\n]|\\[()<>@,;:\\"/\[\]?=]?+)*)"'
_MEDIA_TYPE = re.compile(
    rf"{_SPACES}({_TOKEN}(?>(?:/{_TOKEN})?)){_SPACES}"
    rf"(?>(?:;{_SPACES}{_TOKEN}{_SPACES}={_SPACES}(?:{_TOKEN}|{_QUOTED}){_SPACES})*);?+{_SPACES}"
)


class Dialect(enum.Enum):
    """What is inside a push. The values are those of the core."""

    PROTOBUF = 0
    JSON = 1
    LEGACY = 2


class Decoded(NamedTuple):
    """The inside of a body.

    Attributes:
        view: the decoded bytes, read only; valid until the scratch is used again.
        encoding: the Content-Encoding, in Loki's spelling, of the body as received.
        as_received: whether Loki takes that body under that header.
    """

    view: memoryview
    encoding: str
    as_received: bool


def dialect_of(content_type: str | None, path: str) -> Dialect:
    """What Loki would read a body as, by its Content-Type and path.

    Args:
        content_type: the header; None if there was none.
        path: what upstream will be asked for. Loki looks at the query string, too: sent on,
            it belongs here.

    Raises:
        BadPush: the header is absent, or Loki could not read it.
    """
    if content_type is None:
        raise errors.BadPush("the push has no Content-Type; Loki needs one")
    media_type = _MEDIA_TYPE.fullmatch(content_type)
    if media_type is None:
        raise errors.BadPush(f"Content-Type {content_type[:80]!r} is not a media type")
    if media_type[1].lower() != JSON_TYPE:
        return Dialect.PROTOBUF
    return Dialect.JSON if V1_PATH in path.lower() else Dialect.LEGACY


def loki_takes(encoding: str, dialect: Dialect) -> bool:
    """Whether Loki would take a body under this Content-Encoding, exactly as spelled.

    It compares the name as it stands, for every dialect alike, and knows deflate without
    the zlib wrapper only; the wrapper is a matter of the body, see Decoded.
    """
    return encoding in _LOKI_TAKES


def decode(
    body: Body, encoding: str, dialect: Dialect, max_decoded: int, scratch: Scratch
) -> Decoded:
    """Undo what Content-Encoding says and, for protobuf, the snappy inside.

    Plain JSON is not copied: the view is then of `body`.

    Args:
        encoding: the header, "" if there was none; any case, spaces around it ignored.
        max_decoded: bytes; the result may not be longer.

    Raises:
        BadPush: the encoding is not known, or the body is not in it.
        TooLarge: the body would decode to more than `max_decoded`, or needs more memory than there
            is. Unavailable: it needs more than is free.
    """
    coding = _CODINGS.get(encoding.strip().lower())
    if coding is None:
        raise errors.BadPush(
            f"Content-Encoding {encoding[:80]!r} is not supported;"
            " one of snappy, gzip, deflate, zstd, identity is"
        )
    if dialect is Dialect.PROTOBUF:
        return _decode_protobuf(body, coding, max_decoded, scratch)
    if coding in ("", "snappy"):
        if len(body) > max_decoded:
            raise inflate.too_large(len(body), max_decoded)
        return Decoded(memoryview(body), "", True)
    bound = inflate.Bound(max_decoded, max_decoded)
    size, raw = inflate.undo(body, coding, bound, scratch, lenient=True)
    return Decoded(scratch.view(size), coding, raw and coding in _LOKI_TAKES)


def _decode_protobuf(body: Body, coding: str, max_decoded: int, scratch: Scratch) -> Decoded:
    if coding in ("", "snappy"):
        return Decoded(_unsnapped(body, max_decoded, scratch), coding, True)
    # No encoder makes a longer block of max_decoded bytes.
    outer, block_max = scratch.another(), encoded_max(max_decoded)
    bound = inflate.Bound(block_max, max_decoded)
    size, raw = inflate.undo(body, coding, bound, outer, lenient=False)
    with outer.view(size) as block:
        view = _unsnapped(block, max_decoded, scratch)
    outer.trim(0)
    return Decoded(view, coding, raw and coding in _LOKI_TAKES)


def _unsnapped(block: Body, max_decoded: int, scratch: Scratch) -> memoryview:
    try:
        size: int = cramjam.snappy.decompress_raw_len(block)
        if size > max_decoded:
            raise inflate.too_large(size, max_decoded)
        if size > SNAPPY_MOST * len(block):
            raise errors.BadPush(
                f"protobuf push: {len(block)} bytes of snappy declare {size} decoded bytes, more"
                f" than the {SNAPPY_MOST * len(block)} that are possible{_hint(block)}"
            )
        buffer = scratch.room(size)
        try:
            cramjam.snappy.decompress_raw_into(block, buffer)
        except cramjam.DecompressionError:
            cramjam.snappy.decompress_raw_into(_canonical(block), buffer)
    except cramjam.DecompressionError as error:
        text = f"protobuf push of {len(block)} bytes: {error}{_hint(block)}"
        raise errors.BadPush(text) from None
    return scratch.view(size)


def _hint(block: Body) -> str:
    """What to do about a body that is not snappy, if it looks like JSON: `curl -d` sends a form."""
    if bytes(block[:1]) in (b"{", b"["):
        return "; the body looks like JSON: send it with Content-Type: application/json"
    return ""


# A literal at the very end, its length written longer than needed.
_LONG_TAIL = re.compile(rb"(?:\xf0\x00(.)|\xf0\x01(..)|\xf4\x00\x00(.))\Z", re.DOTALL)


def _canonical(block: Body) -> bytes:
    """`block` with its last literal written the short way.

    Go's snappy reads the long way everywhere, the one in cramjam only where four bytes
    follow the tag. No encoder writes it; but what Loki takes is taken.
    """
    tail = _LONG_TAIL.search(block, max(0, len(block) - 4))
    if tail is None:
        return bytes(block)
    literal = tail[tail.lastindex or 0]
    return b"".join((block[: tail.start()], bytes([len(literal) - 1 << 2]), literal))


def encoded_max(n: int) -> int:
    """The most bytes that encode() makes of `n`: snappy's MaxCompressedLength, gzip's is less."""
    return 32 + n + n // 6


def encode(decoded: Body, dialect: Dialect, compressed: bool) -> tuple[bytes | bytearray, str]:
    """A body that Loki takes, and its Content-Encoding: snappy for protobuf, gzip for JSON.

    Args:
        compressed: whether JSON is to be compressed; protobuf always is.
    """
    if not (compressed or dialect is Dialect.PROTOBUF):
        return bytes(decoded), ""
    # Into a buffer of ours: what the library allocates would be copied once more.
    out = bytearray(encoded_max(len(decoded)))
    if dialect is Dialect.PROTOBUF:
        del out[cramjam.snappy.compress_raw_into(decoded, out) :]
        return out, ""
    del out[cramjam.gzip.compress_into(decoded, out, level=FAST) :]
    return out, "gzip"
