"""The overview of teams in a terminal: TEAMs of the REST API -> lines -> a table that fits. Pure.

Rule 1: whatever comes from the API is hostile: names are shown without control characters and
never read as markup, and sizes are whole numbers throughout.
"""

import datetime
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import rich.console
import rich.table
from rich.cells import cell_len
from rich.text import Text

from sluice import texts, usage

COLOURS = {"allow": "green", "throttle": "yellow", "drop": "red"}
TRENDS = {"rising": "↑", "steady": "→", "falling": "↓", "": ""}
# From nothing to a full letter, in eighths.
BLOCKS, PARTS = " ▏▎▍▌▋▊▉█", 8
ASCII = str.maketrans("↑→↓" + BLOCKS, "+=-" + "    #####")
BAR, FULL_TENTHS, PERCENT_MAX_TENTHS = 6, 1000, 10_000
MINUTE_S = 60
NAME_MAX, GAP = 40, 2
# Lines that are no team: two of title, the table's head, and the caption with a space before it.
FRAME = 5


@dataclass(frozen=True, slots=True)
class Line:
    """What is shown of a team. Sizes are bytes, shares tenths of a percent.

    `rate` is bytes per second, `left_s` how long until a limit is spent; None: nobody knows, or
    not in the open windows.
    """

    name: str
    namespace: str
    action: str
    used: int
    limit: int
    tightest: float
    month: int | None
    rate: int | None
    trend: str
    left_s: float | None
    sampled: int
    dropped: int

    @classmethod
    def of(cls, team: Mapping[str, Any], now: float) -> Self:
        """Read a TEAM.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        expected = team.get("forecast") or {}
        spent = [expected.get(name) for name in ("dayExhausted", "monthExhausted")]
        month_limit = team["monthlyLimit"]
        return cls(
            name=printable(team["name"]),
            namespace=printable(team["namespace"]),
            action=printable(team["action"]),
            used=whole(team["currentUsage"]),
            limit=whole(team["dailyLimit"]),
            tightest=float(team["percent"]),
            month=None
            if month_limit is None
            else usage.tenths(whole(team["monthlyUsage"]), whole(month_limit)),
            rate=whole(expected["bytesPerSecond"]) if expected else None,
            trend=TRENDS[expected["trend"]] if expected else "",
            left_s=min((instant(at) - now for at in spent if at is not None), default=None),
            sampled=whole(team["counts"]["sampled"]["bytes"]),
            dropped=whole(team["counts"]["dropped"]["bytes"]),
        )

    @property
    def day(self) -> int:
        """Usage of the day."""
        return usage.tenths(self.used, self.limit)

    @property
    def left(self) -> str:
        """How long until a limit is spent, in words."""
        if self.left_s is None:
            return "-"
        if self.left_s <= 0:
            return "spent"
        return "< 1 min" if self.left_s < MINUTE_S else texts.until(self.left_s)[len("in ") :]


def printable(value: object) -> str:
    """A string without what moves a cursor, rings a bell or turns the direction of writing."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return "".join(letter if letter.isprintable() else "?" for letter in value)


def whole(value: object) -> int:
    """A whole number that is not negative."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a number of bytes")
    return value


def instant(value: str) -> float:
    """Epoch seconds of an instant as the API writes it."""
    return datetime.datetime.fromisoformat(value).timestamp()


def read(found: Any, namespace: str | None = None) -> list[Line]:
    """The lines of the teams in an answer of /api/teams, of one namespace or of all.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is no such answer.
    """
    now = instant(found["time"])
    lines = [Line.of(team, now) for team in found["teams"]]
    return [line for line in lines if namespace in (None, line.namespace)]


ORDERS: dict[str, Callable[[Line], Any]] = {
    "percent": lambda line: -line.tightest,
    "usage": lambda line: -line.used,
    "name": lambda line: line.name,
    "rate": lambda line: -1 if line.rate is None else -line.rate - 1,
}


def ordered(lines: Iterable[Line], order: str) -> list[Line]:
    """The lines by name or, the largest first, by percent, usage or rate; equals by name."""
    key = ORDERS[order]
    return sorted(lines, key=lambda line: (key(line), line.name, line.namespace))


def percent(tenths: int) -> str:
    """Tenths of a percent in five letters: a limit that was lowered is passed by any factor."""
    return texts.decimal(tenths, 1) if tenths < PERCENT_MAX_TENTHS else ">999"


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, its cells, its width in characters, and how soon it is left out."""

    title: str
    cell: Callable[[Line], str | Text]
    width: int
    rank: int
    is_number: bool = True


def coloured(line: Line, text: str) -> Text:
    """A text in the colour of the team's action."""
    return Text(text, COLOURS.get(line.action, ""))


def bar(line: Line) -> Text:
    """The day's usage as a bar."""
    full, rest = divmod(min(line.day, FULL_TENTHS) * BAR * PARTS // FULL_TENTHS, PARTS)
    text = BLOCKS[-1] * full + BLOCKS[rest]
    return Text(text[:BAR].ljust(BAR), f"{COLOURS.get(line.action, 'default')} on grey23")


NAMESPACE = Column("namespace", lambda line: Text(line.namespace), 12, 7, is_number=False)
COLUMNS = (
    Column("team", lambda line: Text(line.name), 12, 0, is_number=False),
    NAMESPACE,
    Column("action", lambda line: coloured(line, line.action), 8, 1, is_number=False),
    Column("today", bar, BAR, 5, is_number=False),
    Column("day %", lambda line: coloured(line, percent(line.day)), 5, 2),
    Column("used", lambda line: texts.bytes_text(line.used), 7, 3),
    Column("limit", lambda line: texts.bytes_text(line.limit), 7, 3),
    Column("month %", lambda line: "-" if line.month is None else percent(line.month), 7, 6),
    Column("rate", lambda line: rate(line), 12, 8),
    Column("spent in", lambda line: line.left, 11, 4),
    Column("sampled", lambda line: texts.bytes_text(line.sampled), 7, 9),
    Column("dropped", lambda line: texts.bytes_text(line.dropped), 7, 9),
)


def rate(line: Line) -> str:
    """What the team sends, and whether that is more than usual."""
    return "-" if line.rate is None else f"{texts.rate(line.rate)} {line.trend}"


def fitting(columns: Sequence[Column], width: int) -> Sequence[Column]:
    """Those columns that a terminal has room for, by rank; the first always."""
    chosen = [columns[0]]
    room = width - columns[0].width
    for column in sorted(columns[1:], key=lambda column: column.rank):
        if column.width + GAP > room:
            break
        room -= column.width + GAP
        chosen.append(column)
    return sorted(chosen, key=columns.index)


def told_apart(lines: Sequence[Line]) -> list[Line]:
    """The lines with their namespace before a name that several have."""
    counts = Counter(line.name for line in lines)
    return [
        line if counts[line.name] == 1 else replace(line, name=f"{line.namespace}/{line.name}")
        for line in lines
    ]


def table(
    lines: Sequence[Line],
    width: int | None,
    *,
    ascii_only: bool,
    columns: Sequence[Column] = COLUMNS,
) -> rich.table.Table:
    """The table.

    Args:
        width: of the terminal, in characters; None: all columns, and nothing is cut.
        ascii_only: the terminal has no other letters.
        columns: to choose from; the first is the team's.
    """
    if width is not None:
        columns = fitting(columns, width)
    if NAMESPACE not in columns:
        lines = told_apart(lines)
    made = rich.table.Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    spare = 0 if width is None else width - sum(one.width + GAP for one in columns) + GAP
    for column in columns:
        most = None
        if width is not None:
            longest = max((cell_len(str(column.cell(line))) for line in lines), default=0)
            # Names take what is left, the team's before the namespace's.
            wanted = 0 if column.is_number else max(0, min(longest, NAME_MAX) - column.width)
            more = min(wanted, max(0, spare))
            spare -= more
            most = column.width + more
        made.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=most,
        )
    for line in lines:
        cells = [column.cell(line) for column in columns]
        made.add_row(*(plain(cell) if ascii_only else cell for cell in map(as_text, cells)))
    return made


def as_text(cell: str | Text) -> Text:
    """A cell that is no markup, whatever stands in it."""
    return cell if isinstance(cell, Text) else Text(cell)


def plain(cell: Text) -> Text:
    """The cell in ASCII."""
    return Text(cell.plain.translate(ASCII), cell.style)


@dataclass(frozen=True, slots=True)
class Overview:
    """What fills the terminal; fits itself to it whenever it is drawn.

    Attributes:
        where: the API's URL.
        at: the moment that the lines are of, as the API wrote it.
        lines: the teams, in order.
        most: how many to show, None: as many as fit.
        caption: a hint, or, where `is_trouble`, what is wrong.
    """

    where: str
    at: str
    lines: Sequence[Line]
    most: int | None
    caption: str
    is_trouble: bool = False

    def __rich_console__(
        self, console: rich.console.Console, options: rich.console.ConsoleOptions
    ) -> rich.console.RenderResult:
        room = options.height or console.height
        shown = self.lines[: max(0, room - FRAME)][: self.most]
        yield Text(f"Sluice  {self.where}  {self.at}", "bold", no_wrap=True, overflow="ellipsis")
        yield Text(self.summary, no_wrap=True, overflow="ellipsis")
        yield table(shown, options.max_width, ascii_only=options.ascii_only)
        yield ""
        rest = len(self.lines) - len(shown)
        hint = f"{rest:,} more teams; {self.caption}" if rest else self.caption
        yield Text(
            self.caption if self.is_trouble else hint,
            "bold red" if self.is_trouble else "dim",
            no_wrap=True,
            overflow="ellipsis",
        )

    @property
    def summary(self) -> str:
        """How many teams there are, by action."""
        counts = Counter(line.action for line in self.lines)
        named = ", ".join(f"{counts[action]:,} {action}" for action in COLOURS if counts[action])
        teams = "1 team" if len(self.lines) == 1 else f"{len(self.lines):,} teams"
        return f"{teams}: {named}" if named else teams
