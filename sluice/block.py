"""YAML text -> plain values that know their lines, read as kubectl reads it.

Rule 1: plain scalars mean what they mean to kubectl, whose YAML differs from PyYAML's: 1:30
and 2026-11-22 are text, 1e6 is a million, y and n are booleans.
Rule 2: what is wrong with one document (a key given twice, a foreign tag) is that document's
flaw; only text that is not YAML is refused as a whole.
Rule 3: the parser's events are folded without recursion, and aliases share what they name,
so that neither depth nor an alias bomb costs more than the text is long.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from sluice import errors, fields

DEPTH_MAX = 64
# Merges (<<) are the one thing by which a document can outgrow its text.
MERGED_MAX = 10_000
# A longer plain scalar is text: no number worth reading has so many digits.
NUMBER_MAX = 64
# A float from here on is written with an exponent, and is no integer to the API server.
INTEGRAL_MAX = 1e21

# libyaml's parser is ten times as fast, but not every build of PyYAML has it.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Source: YAML 1.1, section 5.1, the characters that a text may not hold.
UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Source: kubernetes-sigs/yaml, goyaml.v2/resolve.go, for these and the numbers below.
WORDS: dict[str, bool | None] = {
    form: meaning
    for words, meaning in (("y yes true on", True), ("n no false off", False), ("null", None))
    for word in words.split()
    for form in (word, word.capitalize(), word.upper())
}
WORDS |= {"": None, "~": None}
NUMBER_START = frozenset("+-.0123456789")
INTEGER = re.compile("([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))")
BASES = (16, 2, 8, 10)
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

TAG = "tag:yaml.org,2002:"
TEXT_TAGS = frozenset({"!", f"{TAG}str"})
PLAIN_TAGS = frozenset({None, *(f"{TAG}{kind}" for kind in ("bool", "int", "float", "null"))})
COLLECTION_TAGS = frozenset({None, "!", f"{TAG}map", f"{TAG}seq"})


class BadYaml(errors.BadBudget):
    """A text that cannot be read as YAML: `reason` and, counted from 1, the `line` of it."""

    def __init__(self, reason: str, line: int, column: int | None = None) -> None:
        where = f"line {line}" if column is None else f"line {line}, column {column}"
        super().__init__(f"{where}: {reason}")
        self.reason = reason
        self.line = line


class Block(dict[str, object]):
    """A mapping that knows on which lines, counted from 1, it and its keys stand.

    `written` has the text of each plain scalar that YAML reads as something else than text.
    """

    __slots__ = ("line", "lines", "written")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}
        self.written: dict[str, str] = {}


class Items(list[object]):
    """A list; `written` is as a Block's, by index."""

    __slots__ = ("written",)

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[int, str] = {}


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why a document cannot be used though it is YAML, and on which line."""

    line: int
    message: str


@dataclass(frozen=True, slots=True)
class Root:
    """One document: its value, the line on which that begins, its first flaw."""

    value: object
    line: int
    flaw: Flaw | None


def read(text: str, loader: Any = LOADER) -> list[Root]:
    """Read all documents of a text, the empty ones too.

    Raises:
        BadYaml: it is not YAML, or nested too deep; says in which line.
    """
    text = text.removeprefix("\ufeff")
    found = UNPRINTABLE.search(text)
    if found is not None:
        line = text.count("\n", 0, found.start()) + 1
        raise BadYaml(f"character {found[0]!a} is not allowed", line)
    try:
        return list(_roots(yaml.parse(text, Loader=loader)))
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = f"not YAML: {getattr(error, 'problem', None) or error}"
        # PyYAML's own parser gives no place for an escape that is no character.
        mark = getattr(error, "problem_mark", None)
        if mark is None:
            raise BadYaml(reason, 1) from None
        raise BadYaml(reason, mark.line + 1, mark.column + 1) from None


def _roots(events: Iterator[Any]) -> Iterator[Root]:
    fold = _Fold()
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            fold = _Fold()
        elif isinstance(event, yaml.DocumentEndEvent):
            yield Root(fold.root, fold.line, fold.flaw)
        elif isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
            fold.take(event)


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not come yet."""

    value: Block | Items
    line: int
    anchor: str | None
    # Of a mapping: the key whose value is next, whether that is <<, and what to merge at the end.
    key: str | None = None
    merging: bool = False
    merges: list[object] = field(default_factory=list)


# Stands for an anchor whose node is still open: an alias to it would contain itself.
_UNFINISHED = object()


class _Fold:
    """Folds the events of one document into its value."""

    def __init__(self) -> None:
        self.root: object = None
        self.line = 1
        self.flaw: Flaw | None = None
        self._anchors: dict[str, object] = {}
        self._open: list[_Open] = []
        self._merged = 0

    def take(self, event: Any) -> None:
        """Take the next event of the document."""
        line = event.start_mark.line + 1
        if isinstance(event, yaml.CollectionEndEvent):
            self._end()
        elif isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, line)
            if event.anchor is not None:
                self._anchors[event.anchor] = value
            self._put(value, line, event)
        elif isinstance(event, yaml.AliasEvent):
            self._put(self._alias(event.anchor, line), line)
        else:
            self._start(event, line)

    def _start(self, event: Any, line: int) -> None:
        if len(self._open) == DEPTH_MAX:
            raise BadYaml(f"nested deeper than {DEPTH_MAX} levels", line)
        if event.tag not in COLLECTION_TAGS:
            self._spoil(line, f"tag {fields.shown(event.tag)} is not supported")
        if event.anchor is not None:
            self._anchors[event.anchor] = _UNFINISHED
        mapping = isinstance(event, yaml.MappingStartEvent)
        self._open.append(_Open(Block(line) if mapping else Items(), line, event.anchor))

    def _end(self) -> None:
        done = self._open.pop()
        if isinstance(done.value, Block):
            for source in done.merges:
                self._merge(done.value, source, done.line)
        if done.anchor is not None:
            self._anchors[done.anchor] = done.value
        self._put(done.value, done.line)

    def _put(self, value: object, line: int, scalar: Any = None) -> None:
        """Put a finished value where it belongs; `scalar` is the event of a scalar."""
        if not self._open:
            self.root, self.line = value, line
            return
        within = self._open[-1]
        is_misread = scalar is not None and scalar.value and not isinstance(value, str)
        if isinstance(within.value, Items):
            if is_misread:
                within.value.written[len(within.value)] = scalar.value
            within.value.append(value)
        elif within.key is None:
            self._set_key(within, value, line, scalar)
        else:
            if within.merging:
                within.merges.append(value)
            else:
                within.value.setdefault(within.key, value)
                if is_misread:
                    within.value.written.setdefault(within.key, scalar.value)
            within.key = None

    def _set_key(self, within: _Open, value: object, line: int, scalar: Any) -> None:
        assert isinstance(within.value, Block)
        within.merging = scalar is not None and scalar.implicit[0] and scalar.value == "<<"
        # A key is what was written, 1 or true too, for JSON has no other keys than text.
        key = value if scalar is None else scalar.value
        if value is None or not isinstance(key, str):
            self._spoil(line, f"{fields.shown(value)} is a key; keys are text")
            key = ""
        within.key = key
        if within.merging:
            return
        if key in within.value.lines:
            self._spoil(
                line, f"key {fields.shown(key)} is given in line {within.value.lines[key]} too"
            )
        within.value.lines.setdefault(key, line)

    def _merge(self, target: Block, source: object, line: int) -> None:
        """Add what a << names; what stands in the mapping itself, or was named first, wins."""
        for block in source if isinstance(source, list) else [source]:
            if not isinstance(block, Block):
                self._spoil(line, f"<< of {fields.shown(block)}, which is no mapping")
                continue
            self._merged += len(block)
            if self._merged > MERGED_MAX:
                self._spoil(line, f"<< brings in more than {MERGED_MAX} fields")
                return
            for key, value in block.items():
                if key not in target:
                    target[key], target.lines[key] = value, block.lines[key]
                    if key in block.written:
                        target.written[key] = block.written[key]

    def _alias(self, anchor: Any, line: int) -> object:
        value = self._anchors.get(anchor, _UNFINISHED)
        if value is _UNFINISHED:
            known = "contains itself" if anchor in self._anchors else "is not defined"
            self._spoil(line, f"*{anchor[: fields.SHOWN_MAX]} {known}")
            return None
        return value

    def _scalar(self, event: Any, line: int) -> object:
        if event.tag in TEXT_TAGS:
            return event.value
        if event.tag not in PLAIN_TAGS:
            self._spoil(line, f"tag {fields.shown(event.tag)} is not supported")
        if event.tag is None and not event.implicit[0]:
            return event.value
        return plain(event.value)

    def _spoil(self, line: int, message: str) -> None:
        if self.flaw is None:
            self.flaw = Flaw(line, message)


def plain(text: str) -> object:
    """Read a scalar without quotes as kubectl does: null, boolean, number or the text itself."""
    if text in WORDS:
        return WORDS[text]
    if text[0] not in NUMBER_START or len(text) > NUMBER_MAX:
        return text
    digits = text.replace("_", "")
    match = INTEGER.fullmatch(digits)
    if match is not None:
        sign, *groups = match.groups()
        size = next(int(group, BASES[i]) for i, group in enumerate(groups) if group)
        return -size if sign == "-" else size
    if FLOAT.fullmatch(digits):
        number = float(digits)
        # The way to the API server is JSON, where 1e6 is an integer like 1000000.
        whole = number.is_integer() and abs(number) < INTEGRAL_MAX
        return int(number) if whole else number
    if SPECIAL_FLOAT.fullmatch(text):
        return float(text.replace(".", ""))
    return text
