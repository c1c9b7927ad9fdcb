"""JSON escapes, undone the way Loki's two JSON readers undo them.

They agree but for surrogates: jsonparser (v1 pushes) refuses half a pair, json-iterator
(legacy pushes) makes U+FFFD of it. Neither looks at raw control characters or at UTF-8.

Sources: grafana/jsonparser escape.go; json-iterator/go 1.1.12 iter_str.go (the slow path:
the fast one refuses a control character if it lies in the same 512-byte buffer).
"""

import re
import sys

REPLACEMENT = "\ufffd".encode()

_SHORT = {
    b'"': b'"',
    b"\\": b"\\",
    b"/": b"/",
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
}
# Groups: a short escape, the two halves of a pair, a single \u. None of them: malformed.
_FOUR = rb"[0-9a-fA-F]{4}"
_GROUPS = (
    rb'\\(?:(["\\/bfnrt])|u(?:(?=[dD][89a-fA-F])(' + _FOUR + rb")%s(" + _FOUR + rb")"
    rb"|(%s" + _FOUR + rb"))|)"
)
# jsonparser does not look at the two bytes where the second half has its \u, and takes
# anything from U+DC00 up for that half.
_V1 = re.compile(_GROUPS % (rb"..(?=[dD][c-fC-F]|[eEfF])", rb"(?![dD][89a-fA-F])"), re.DOTALL)
_LEGACY = re.compile(_GROUPS % (rb"\\u", rb""))


def undo_v1(raw: bytes) -> bytes | None:
    """`raw` as grafana/jsonparser unescapes it; None where it finds an escape malformed."""
    return _undo(raw, _V1)


def undo_legacy(raw: bytes) -> bytes | None:
    """`raw` as json-iterator unescapes it; None where it finds an escape malformed."""
    return _undo(raw, _LEGACY)


def _undo(raw: bytes, grammar: re.Pattern[bytes]) -> bytes | None:
    if b"\\" not in raw:
        return raw
    text = bytearray()
    at = 0
    for escape in grammar.finditer(raw):
        short, high, low, single = escape.groups()
        text += raw[at : escape.start()]
        at = escape.end()
        if short:
            text += _SHORT[short]
        elif high:
            text += _pair(int(high, 16), int(low, 16), unchecked=grammar is _V1)
        elif single:
            text += _utf8(int(single, 16))
        else:
            return None
    text += raw[at:]
    return bytes(text)


def _pair(high: int, low: int, unchecked: bool) -> bytes:
    """The character of two halves, or one each; `unchecked` combines whatever they are."""
    if unchecked or high < 0xDC00 <= low < 0xE000:
        return _utf8(0x10000 + (high - 0xD800 << 10) + (low - 0xDC00))
    return _utf8(high) + _utf8(low)


def _utf8(code: int) -> bytes:
    if 0xD800 <= code < 0xE000 or code > sys.maxunicode:
        return REPLACEMENT
    return chr(code).encode()
