"""Label text -> labels, read the way Loki reads it.

Rule 1: what Loki attributes to a namespace is attributed to the same namespace here. A
label set that only one of the two can read would be a way past a budget.
Rule 2: nothing here raises. Text that Loki refuses is `None`; Loki refuses the whole push for it,
and so does the caller.
Rule 3: time and memory are linear in the text, whose length the caller bounds. Every
repetition in the patterns is possessive or in an atomic group, so none of them can go back
and try again.

Bytes that are not UTF-8 travel through `str` as lone surrogates (PEP 383), in names and
values alike, so that no two different labels become equal.

Sources: Loki 3.7.8 pkg/logql/syntax/parser.go (ParseLabels), pkg/loghttp/labels.go
(LabelSet); Prometheus promql/parser (lex.go, generated_parser.y: metric, label_set),
model/labels (Builder), util/strutil (Unquote); grafana/jsonparser parser.go, escape.go;
json-iterator/go 1.1.12 iter_str.go. All cross-checked against those very parsers.
"""

import re
import sys

from sluice.wire import escapes

METRIC_NAME = "__name__"  # where Prometheus keeps the name in front of the braces

# Keywords of PromQL that the grammar does not also allow as a metric name.
_RESERVED = frozenset(
    ("atan2", "bool", "group_left", "group_right", "ignoring", "inf", "nan", "on")
)


def often(group: str) -> str:
    """A pattern for `group` as often as it comes, without ever going back.

    A possessive group needs a fifth of the memory of an atomic one, but Python before 3.11.5
    matches it wrongly (python/cpython#106052).
    """
    return f"{group}*+" if sys.version_info >= (3, 11, 5) else f"(?>{group}*)"


# Spaces and comments, which may stand between any two tokens. A comment may hold any byte.
_GAP = r"[ \t\r\n]*+" + often(r"(?:#[^\r\n]*+[ \t\r\n]*+)")
# U+FFFD is refused even where it was sent as such: Go's decoder returns it for bad bytes,
# and the lexer cannot tell the two apart.
_BAD = r"\ufffd\ud800-\udfff"
_HEX = "[0-9a-fA-F]"
_ESCAPES = (
    rf"x{_HEX}{{2}}|[0-3][0-7]{{2}}|u(?![dD][89a-fA-F]){_HEX}{{4}}"
    rf"|U(?!0000[dD][89a-fA-F])00(?:0{_HEX}|10){_HEX}{{4}}"
)
_QUOTED = "|".join(
    rf"{q}[^{q}\\\n{_BAD}]*+" + often(rf"(?:\\(?:[abfnrtv\\{q}]|{_ESCAPES})[^{q}\\\n{_BAD}]*+)") + q
    for q in "\"'"
)
_STRING = rf"({_QUOTED}|`[^`{_BAD}]*+`)"

_HEAD = re.compile(rf"{_GAP}(?>([a-zA-Z_:][a-zA-Z0-9_:]*+)?){_GAP}(?>(\{{{_GAP}(?>(\}})?))?)")
_ITEM = re.compile(
    rf"(?:([a-zA-Z_][a-zA-Z0-9_]*+)|{_STRING})"
    rf"(?>(?:{_GAP}={_GAP}{_STRING})?){_GAP}(?:(\}})|,{_GAP}(?>(\}})?))"
)
_TAIL = re.compile(_GAP)
# The escapes for single bytes from 0x80 on, and escaped backslashes to step over.
_HIGH_BYTE = re.compile(rf"\\(?:\\|x([89a-fA-F]{_HEX})|([23][0-7]{{2}}))")
# One object a byte: millions of escapes must not become millions of objects.
_LONE = tuple(chr(0xDC00 + byte) for byte in range(256))
# What Go's strconv.Quote has short escapes for.
_GO_ESCAPES = {c: f"\\{e}" for c, e in zip('\a\b\f\n\r\t\v"\\', 'abfnrtv"\\', strict=True)}


def parse_metric(text: str | bytes) -> dict[str, str] | None:
    """The labels of one stream, from the text that a push carries for them.

    An optional metric name, then optional labels in braces, as PromQL has it. A label
    without a value is no label. Of a label named twice the first counts, as in Loki's
    lookups; Loki itself refuses such a stream unless it marks itself as internal.

    Returns:
        name -> value, or None where Loki's parser refuses the text.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    head = _HEAD.match(text)
    if head is None:
        return None
    metric, opened, closed = head.groups()
    if metric is not None and metric.lower() in _RESERVED:
        return None
    pairs: list[tuple[str, str]] = []
    at = head.end()
    if opened and not closed:
        at = _read_items(text, at, pairs)
    tail = _TAIL.match(text, at) if at >= 0 else None
    if tail is None or tail.end() != len(text):
        return None
    return _settled(metric, pairs)


def _read_items(text: str, at: int, pairs_out: list[tuple[str, str]]) -> int:
    """Read what stands in braces; return where the closing brace ends, -1 if malformed."""
    closed = None
    while not closed:
        item = _ITEM.match(text, at)
        if item is None:
            return -1
        name, quoted, value, last, last_after_comma = item.groups()
        if value is not None:
            pairs_out.append((name or _unquote(quoted), _unquote(value)))
        elif quoted is not None:
            pairs_out.append((METRIC_NAME, _unquote(quoted)))
        else:
            return -1
        closed = last or last_after_comma
        at = item.end()
    return at


def _settled(metric: str | None, pairs: list[tuple[str, str]]) -> dict[str, str]:
    """One value a name, none of them empty.

    With a metric name in front Prometheus builds the set anew, and the builder takes an
    empty value to delete every label of that name, not only the empty one.
    """
    labels: dict[str, str] = {}
    for name, value in pairs:
        if value:
            labels.setdefault(name, value)
    if metric is not None:
        for name, value in pairs:
            if not value:
                labels.pop(name, None)
        labels[METRIC_NAME] = metric
    return labels


def _unquote(quoted: str) -> str:
    """The string that a literal, already known to be well formed, stands for."""
    body = quoted[1:-1]
    if "\\" not in body or quoted[0] == "`":
        return body
    # Escapes give characters, except those of one byte: several may make up a character.
    body = _HIGH_BYTE.sub(_lone_byte, body)
    body = body.encode("ascii", "backslashreplace").decode("unicode_escape")
    return body.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def _lone_byte(escape: re.Match[str]) -> str:
    base16, base8 = escape.groups()
    if base16:
        return _LONE[int(base16, 16)]
    return _LONE[int(base8, 8)] if base8 else "\\\\"


_PLAIN_NAME = re.compile(rb"[a-zA-Z_][a-zA-Z0-9_]*+")

_BLANK = rb"[ \t\r\n]*+"
_TEXT = rb'"([^"\\]*+' + often(r'(?:\\.[^"\\]*+)').encode() + rb')"'
_OPENING = re.compile(_BLANK + rb"\{" + _BLANK + rb"(?>(\})?)")
# A key, then a string, the start of a block, or a bare word.
_MEMBER = re.compile(
    _TEXT + _BLANK + rb":" + _BLANK + rb"(?:" + _TEXT + rb"|([\[{])|"
    rb"((?:true|false|null)(?=[ \t\r\n,}\]]|\Z)|[0-9-][^ \t\r\n,}\]]*+))",
    re.DOTALL,
)
_SEPARATOR = re.compile(_BLANK + rb"(?:(\})|," + _BLANK + rb"(?>(\})?))")
_MARKS = {
    b"{": re.compile(_TEXT + rb'|[{}"]', re.DOTALL),
    b"[": re.compile(_TEXT + rb'|[\[\]"]', re.DOTALL),
}


def parse_json_labels(raw: bytes) -> dict[str, str] | None:
    """The labels of one stream of a v1 JSON push, from the raw value of its "stream".

    Loki takes values of any JSON type as their text, keeps the last of equal keys, puts the
    keys *as they are* into label text and parses that. So a key may be a quoted name, or
    smuggle in labels of its own, and what it smuggles counts.

    Args:
        raw: the value, braces included; of a JSON string, what is between its quotes.

    Returns:
        name -> value, or None where Loki refuses the object or the text made from it.
    """
    opening = _OPENING.match(raw)
    if opening is None:
        return None
    at, closed = opening.end(), opening[1]
    members: dict[bytes, bytes] = {}
    while not closed:
        member = _MEMBER.match(raw, at)
        if member is None:
            return None
        key, text, block, word = member.groups()
        at = _block_end(raw, member.start(3)) if block else member.end()
        value = raw[member.start(3) : at] if block else word if text is None else text
        separator = _SEPARATOR.match(raw, at)
        if separator is None:
            return None
        if b"\\" in member[0] or block:
            # jsonparser hands out keys unescaped, and Loki unescapes them once more.
            once = escapes.undo_v1(key)
            twice = None if once is None else escapes.undo_v1(once)
            unescaped = escapes.undo_v1(value)
            if twice is None or unescaped is None:
                return None
            key, value = twice, unescaped
        members[key] = value
        at, closed = separator.end(), separator[1] or separator[2]
    return _named(members)


def _named(members: dict[bytes, bytes]) -> dict[str, str] | None:
    """What Loki's text for these members means, without the text where that is plain."""
    if all(_PLAIN_NAME.fullmatch(key) for key in members) and not any(
        escapes.REPLACEMENT in value for value in members.values()
    ):
        return {
            key.decode(): value.decode("utf-8", "surrogateescape")
            for key, value in members.items()
            if value
        }
    text = b", ".join(key + b"=" + _quote(members[key]) for key in sorted(members))
    return parse_metric(b"{" + text + b"}")


def _block_end(raw: bytes, at: int) -> int:
    """Where the array or object at `at` ends; without an end, behind all of `raw`."""
    opening = raw[at : at + 1]
    depth = 0
    for mark in _MARKS[opening].finditer(raw, at):
        if mark[0] == b'"':
            break
        if mark[1] is None:
            depth += 1 if mark[0] == opening else -1
            if depth == 0:
                return mark.end()
    return len(raw)


def parse_json_string(raw: bytes) -> str | None:
    """The label text of a legacy JSON push, from the bytes between its quotes.

    Half a surrogate pair becomes U+FFFD. Control characters pass: whether json-iterator
    refuses one depends on where its 512-byte buffer happens to end.
    """
    text = escapes.undo_legacy(raw)
    return None if text is None else text.decode("utf-8", "surrogateescape")


def _quote(value: bytes) -> bytes:
    """`value` as Go's strconv.Quote writes it into the label text."""
    text = value.decode("utf-8", "surrogateescape")
    if not text.isprintable() or '"' in text or "\\" in text:
        text = text.translate({ord(c): _quoted_character(c) for c in set(text)})
    return f'"{text}"'.encode()


def _quoted_character(character: str) -> str:
    if character in _GO_ESCAPES:
        return _GO_ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code < 0xDD00:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
