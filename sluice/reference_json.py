"""The JSON scanner in plain Python: the specification that runs. For tests and benchmarks only.

Same functions, same order of looks and so the same errors at the same bytes as _json.pxd;
but a string is unescaped here, and measured afterwards. Why Loki reads what it reads is
said there.
"""

import calendar
import enum
import itertools
import re
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from typing import NoReturn

from sluice import errors

BAD_JSON, BAD_TYPE_JSON, BAD_ESCAPE, TOO_DEEP, UNFINISHED = range(-5, -10, -1)
BAD_TIME_NS, BAD_TIME_TEXT = -11, -12
WORDS = {
    BAD_JSON: "not what JSON allows here",
    BAD_TYPE_JSON: "a JSON value of a kind that a push cannot have here",
    BAD_ESCAPE: "an escape sequence that Loki refuses",
    TOO_DEEP: "nested deeper than 10000 levels",
    UNFINISHED: "the body ends inside a JSON value",
    BAD_TIME_NS: "Loki takes nanoseconds since 1970 here, as a decimal integer of 64 bits",
    BAD_TIME_TEXT: 'Loki takes RFC 3339 here, such as "2026-11-22T12:00:00.5Z"',
}
# What jsonparser reads as an integer, but for its size; "-" is 0.
WHOLE_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)?")
# What Go reads as RFC 3339, but for the ranges.
TIME_TEXT = re.compile(
    rb"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{1,2}):([0-9]{2}):([0-9]{2})"
    rb"(?:[.,][0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
UNSPECIAL = re.compile(rb'[^"\\]*')
JSON_DEPTH_MAX = 10_000
NAMES_MAX = 128
REPLACEMENT = "\ufffd".encode()
SHORT_ESCAPES = dict(zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True))

Rows = MutableSequence[MutableSequence[int]]


class Grammar(enum.Enum):
    """Which of Loki's parsers reads a string; they differ in what half a surrogate pair is."""

    PAIRED = enum.auto()  # jsonparser: refused
    GREEDY = enum.auto()  # json-iterator: U+FFFD, and it swallows the next \u escape
    COERCED = enum.auto()  # encoding/json: U+FFFD, and so is each bad byte of UTF-8


def encoded(point: int) -> bytes:
    is_text = point < 0xD800 or 0xE000 <= point <= 0x10FFFF
    return chr(point).encode() if is_text else REPLACEMENT


def hash_of_name(name: bytes) -> int:
    """FNV-1a's steps over code points, modulo 2^64."""
    hashed = 0x811C9DC5
    for character in name.decode():
        hashed = (hashed ^ ord(character)) * 0x1000193 % 2**64
    return hashed


def joined(high: int, low: int) -> int:
    return 0x10000 + ((high - 0xD800) << 10) + low - 0xDC00


def coerced(text: bytes) -> bytes:
    """The text with each byte that is not of well-formed UTF-8 replaced."""
    out = b""
    while text:
        size = next((n for n in range(1, 5) if is_utf8(text[:n])), 0)
        out += text[:size] or REPLACEMENT
        text = text[size or 1 :]
    return out


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def place(stream: int, entry: int) -> str:
    """Where in a push an error is; -1 for none."""
    where = f"stream {stream}, " if stream >= 0 else ""
    return where + (f"entry {entry}, " if entry >= 0 else "")


def is_time_ns(text: bytes) -> bool:
    """Whether Loki takes a v1 timestamp."""
    if not text or not WHOLE_NUMBER.fullmatch(text):
        return False
    # Python reads no more than some thousand digits.
    return len(text) <= 20 and -(2**63) <= int(text if text != b"-" else 0) < 2**63


def is_time_text(text: bytes) -> bool:
    """Whether Loki takes a legacy timestamp."""
    found = TIME_TEXT.fullmatch(text)
    if found is None:
        return False
    year, month, day, hour, minute, second = map(int, found.groups())
    if not 1 <= month <= 12 or hour > 23 or minute > 59 or second > 59:
        return False
    # The Gregorian calendar repeats after 400 years; datetime has no year 0.
    return 1 <= day <= calendar.monthrange(year or 400, month)[1]


class Reader:
    """A place in a JSON body, and the streams and entries found before it."""

    def __init__(self, body: bytes, legacy: bool, at: int = 0) -> None:
        self.body = body
        self.legacy = legacy
        self.at = at
        self.stream: list[list[int]] = []
        self.earlier: list[list[int]] = []
        self.entry: list[tuple[int, int, int]] = []
        self.is_mixed = False
        self.in_stream = self.in_entry = -1

    # tokens

    def refuse(self, code: int, what: str = "") -> NoReturn:
        where = place(self.in_stream, self.in_entry)
        raise errors.BadPush(f"{where}byte {self.at}: {what}{WORDS[code]}")

    def malformed(self) -> NoReturn:
        self.refuse(BAD_JSON if self.peek() else UNFINISHED)

    def mistyped(self) -> NoReturn:
        if re.match(rb'["{\[tfn0-9-]', self.peek()):
            self.refuse(BAD_TYPE_JSON)
        self.malformed()

    def peek(self) -> bytes:
        """The next byte that is not white space; nothing at the end."""
        while self.body[self.at : self.at + 1] in (b" ", b"\n", b"\r", b"\t"):
            self.at += 1
        return self.body[self.at : self.at + 1]

    def take_open(self, bracket: bytes) -> None:
        if self.peek() != bracket:
            self.mistyped()
        self.at += 1

    def take_word(self, word: bytes) -> None:
        if not self.body.startswith(word, self.at):
            self.refuse(BAD_JSON)
        self.at += len(word)

    def take_null(self) -> bool:
        if self.peek() != b"n":
            return False
        self.take_word(b"null")
        return True

    def items(self, closer: bytes) -> Iterator[int]:
        """Stop at each item of what was just opened, for the caller to step over it."""
        for i in itertools.count():
            byte = self.peek()
            if byte == closer:
                self.at += 1
                return
            if i:
                if byte != b",":
                    self.malformed()
                self.at += 1
            yield i

    def members(self, grammar: Grammar = Grammar.GREEDY) -> Iterator[bytes]:
        """Stop at each value of the object that was just opened; gives its name."""
        for _ in self.items(b"}"):
            byte = self.peek()
            name = b""
            if byte == b'"':
                _, _, name = self.read_string(grammar)
            elif byte == b"n":
                self.take_word(b"null")
            else:
                self.malformed()
            if self.peek() != b":":
                self.malformed()
            self.at += 1
            yield name

    # strings

    def read_hex(self, at: int) -> int:
        digits = self.body[at : at + 4]
        return int(digits, 16) if re.fullmatch(rb"[0-9A-Fa-f]{4}", digits) else -1

    def read_escape(self, grammar: Grammar) -> tuple[int, bytes]:
        """What the escape at the cursor takes, and what it stands for."""
        at = self.at
        letter = self.body[at + 1 : at + 2]
        if letter and letter[0] in SHORT_ESCAPES:
            return 2, bytes([SHORT_ESCAPES[letter[0]]])
        first = self.read_hex(at + 2)
        if letter != b"u" or first < 0:
            self.refuse(BAD_ESCAPE)
        if not 0xD800 <= first <= 0xDFFF:
            return 6, encoded(first)
        between = self.body[at + 6 : at + 8]
        second = self.read_hex(at + 8)
        if grammar is Grammar.PAIRED:
            # two bytes of anything that does not end the string, and no upper limit
            if second < 0xDC00 or between[:1] == b'"' or re.fullmatch(rb'[^\\]"', between, re.S):
                self.refuse(BAD_ESCAPE)
            return 12, encoded(joined(first, second))
        if second < 0 or between != b"\\u":
            return 6, REPLACEMENT
        if first < 0xDC00 <= second <= 0xDFFF:
            return 12, encoded(joined(first, second))
        if grammar is Grammar.COERCED:
            return 6, REPLACEMENT
        return 12, REPLACEMENT + encoded(second)

    def read_string(self, grammar: Grammar) -> tuple[int, int, bytes]:
        """The raw range between the quotes, and the text."""
        self.at += 1
        start = self.at
        text = bytearray()
        while run := UNSPECIAL.match(self.body, self.at):
            text += run[0]
            self.at = run.end()
            byte = self.body[self.at : self.at + 1]
            if byte != b"\\":
                break
            size, plain = self.read_escape(grammar)
            text += plain
            self.at += size
        if self.at == len(self.body):
            self.refuse(UNFINISHED)
        self.at += 1
        plain = bytes(text)
        return start, self.at - 1, coerced(plain) if grammar is Grammar.COERCED else plain

    def take_string(self, grammar: Grammar) -> tuple[int, int, bytes]:
        if self.peek() != b'"':
            self.mistyped()
        return self.read_string(grammar)

    # values that do not matter

    def skip_scalar(self) -> None:
        words = {b"n": b"null", b"t": b"true", b"f": b"false"}
        byte = self.peek()
        if byte == b'"':
            self.read_string(Grammar.GREEDY)
        elif byte in words:
            self.take_word(words[byte])
        elif number := re.compile(rb"[0-9-][0-9eE.+-]*").match(self.body, self.at):
            self.at = number.end()
        else:
            self.malformed()

    def skip_value(self) -> None:
        opened: list[Iterator[int | bytes]] = []
        while True:
            byte = self.peek()
            if byte in (b"{", b"["):
                if len(opened) == JSON_DEPTH_MAX:
                    self.refuse(TOO_DEEP)
                self.at += 1
                opened.append(self.members() if byte == b"{" else self.items(b"]"))
            else:
                self.skip_scalar()
            while opened and next(opened[-1], None) is None:
                opened.pop()
            if not opened:
                return

    # entries

    def scan_pairs(self) -> int:
        """v1 structured metadata: every pair is billed."""
        size = 0
        self.take_open(b"{")
        for name in self.members(Grammar.PAIRED):
            _, _, value = self.take_string(Grammar.PAIRED)
            size += len(name + value) if name != b"detected_level" else 0
        return size

    def scan_map(self) -> int:
        """Legacy structured metadata: of pairs of one name the last is billed."""
        size = 0
        # By the hash of their names: the first name, and what is billed for it.
        first: dict[int, tuple[bytes, int]] = {}
        names = 0
        if self.take_null():
            return 0
        self.take_open(b"{")
        for name in self.members(Grammar.COERCED):
            value = b"" if self.take_null() else self.take_string(Grammar.COERCED)[2]
            own = len(name + value) if name != b"detected_level" else 0
            size += own
            hashed = hash_of_name(name)
            known, before = first.get(hashed, (b"", 0))
            if hashed in first and known == name:
                size -= before
                first[hashed] = name, own
            elif names < NAMES_MAX:
                names += 1
                first.setdefault(hashed, (name, own))
        return size

    def check_time(self, part: list[int], is_taken: Callable[[bytes], bool], code: int) -> None:
        """See whether Loki refuses the timestamp of an entry."""
        at, end = part[:2]
        if not is_taken(self.body[at:end]):
            self.at = at
            text = self.body[at : at + errors.EXCERPT_BYTES].split(b'"')[0]
            self.refuse(code, f"timestamp {errors.excerpt(text)}: ")

    def scan_array_entry(self) -> tuple[int, list[int]]:
        """v1: [time, line, metadata]; gives size and parts."""
        part = [0, 0, 0, 0]
        size = 0
        if self.peek() == b'"':
            self.read_string(Grammar.GREEDY)
            return 0, part
        self.take_open(b"[")
        for i in self.items(b"]"):
            if i == 0:
                *part[0:2], _ = self.take_string(Grammar.GREEDY)
                self.check_time(part, is_time_ns, BAD_TIME_NS)
            elif i == 1:
                *part[2:4], line = self.take_string(Grammar.PAIRED)
                size += len(line)
            elif i == 2:
                size += self.scan_pairs()
            else:
                self.skip_value()
        return size, part

    def scan_object_entry(self) -> tuple[int, list[int]]:
        """legacy: {"ts": time, "line": line, "structuredMetadata": metadata}, or null."""
        part = [0, 0, 0, 0]
        line = b""
        metadata = 0
        if self.take_null():
            return 0, part
        self.take_open(b"{")
        for key in self.members():
            # Go lowers the dotted capital I to a plain i
            name = key.replace("\u0130".encode(), b"i").lower()
            if name == b"ts":
                if not self.take_null():
                    *part[0:2], _ = self.take_string(Grammar.GREEDY)
                    self.check_time(part, is_time_text, BAD_TIME_TEXT)
            elif name == b"line":
                *part[2:4], line = 0, 0, b""
                if not self.take_null():
                    *part[2:4], line = self.take_string(Grammar.GREEDY)
            elif name == b"structuredmetadata":
                metadata = self.scan_map()
            else:
                self.skip_value()
        return len(line) + metadata, part

    def scan_entry(self) -> tuple[int, list[int]]:
        return self.scan_object_entry() if self.legacy else self.scan_array_entry()

    # streams: rows of at, end, body, labels, labels end, first entry, entries, size

    def scan_entries(self, row: list[int]) -> None:
        """The entries of one stream; a second list replaces the first."""
        is_null = self.take_null()
        if is_null and not self.legacy:
            return
        before = row[6]
        row[5:8] = len(self.entry), 0, 0
        if is_null:
            return
        if not self.legacy and self.peek() == b'"':
            self.read_string(Grammar.GREEDY)
            return
        self.take_open(b"[")
        for i in self.items(b"]"):
            self.is_mixed |= self.legacy and before > 0
            self.peek()
            at = self.at
            if self.legacy or not self.take_null():
                self.in_entry = i
                size, _ = self.scan_entry()
                self.in_entry = -1
                self.entry.append((at, self.at, size))
                row[6] += 1
                row[7] += size

    def scan_labels(self, row: list[int]) -> None:
        row[3:5] = 0, 0
        if self.legacy:
            if not self.take_null():
                *row[3:5], _ = self.take_string(Grammar.GREEDY)
        elif self.peek() in (b"{", b'"'):
            at = self.at
            self.skip_value()
            row[3:5] = at, self.at
        else:
            self.mistyped()

    def scan_stream(self) -> None:
        """One stream, read over what an earlier list has left in its place."""
        i = len(self.stream)
        row = [0, 0, 0, 0, 0, len(self.entry), 0, 0]
        if i < len(self.earlier) and not self.legacy:
            row = self.earlier[i]
        self.stream.append(row)
        self.in_stream = i
        self.peek()
        row[0] = row[2] = self.at
        if not (self.legacy and self.take_null()):
            self.take_open(b"{")
            for key in self.members():
                name = key.lower() if self.legacy else key
                if name == (b"labels" if self.legacy else b"stream"):
                    self.scan_labels(row)
                elif name == (b"entries" if self.legacy else b"values"):
                    self.scan_entries(row)
                else:
                    self.skip_value()
        row[1] = self.at
        self.in_stream = -1

    def scan_streams(self) -> None:
        """A list of streams; null or an empty list forgets the lists before it."""
        self.stream = []
        if not self.take_null():
            self.take_open(b"[")
            for _ in self.items(b"]"):
                self.is_mixed |= self.legacy and bool(self.earlier)
                self.scan_stream()
        forgotten = self.earlier[len(self.stream) :] if self.stream else []
        self.earlier = self.stream + forgotten

    def scan_body(self) -> None:
        if self.take_null():
            return
        self.take_open(b"{")
        for key in self.members():
            if key.lower() == b"streams":
                self.scan_streams()
            else:
                self.skip_value()


def scan_json(
    body: bytes, legacy: bool, stream_out: Rows, entry_out: Rows
) -> tuple[int, int, bool]:
    """Fill the rows from a JSON push body; rows beyond the room are counted, not written."""
    reader = Reader(bytes(body), legacy)
    reader.scan_body()
    for rows, out in ((reader.stream, stream_out), (reader.entry, entry_out)):
        for row, row_out in zip(rows, out, strict=False):
            for column, value in enumerate(row):
                row_out[column] = value
    return len(reader.stream), len(reader.entry), reader.is_mixed


def json_entry_parts(body: bytes, at: int, end: int, legacy: bool) -> list[int]:
    """The raw ranges of an accepted entry's time and line; zeros where there is none."""
    return Reader(bytes(body[:end]), legacy, at).scan_entry()[1]


def split_json(
    body: bytes, legacy: bool, stream: Rows, entry: Rows, outcome: Sequence[int]
) -> bytes:
    """The filtered body in its own dialect: raw labels and raw kept entries (outcome 0)."""
    body = bytes(body)
    label_key, opener, closer, entry_key = (
        (b'"labels":', b'"', b'"', b'"entries":')
        if legacy
        else (b'"stream":', b"", b"", b'"values":')
    )
    streams = []
    for row in stream:
        _, _, _, labels, labels_end, first, count, _ = (int(word) for word in row)
        kept = [
            body[int(entry[i][0]) : int(entry[i][1])]
            for i in range(first, first + count)
            if outcome[i] == 0
        ]
        head = label_key + opener + body[labels:labels_end] + closer + b"," if labels_end else b""
        if kept:
            streams.append(b"{" + head + entry_key + b"[" + b",".join(kept) + b"]}")
    return b'{"streams":[' + b",".join(streams) + b"]}"
