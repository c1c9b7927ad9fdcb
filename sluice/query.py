"""Queries: what is asked of the REST API behind the question mark, read or refused by name. Pure.

A parameter that nobody knows is refused: a misspelt ?namepsace= must not go unnoticed.
"""

import datetime
import difflib
import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Self

from sluice import errors, fields, usage, window

# Source: RFC 3339, 5.6.
INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
# The years 1970 to 9999.
INSTANT_MAX = 253_402_300_799
NUMBER = re.compile(r"[0-9]{1,18}")

MINUTE_S = 60
# Months are not all as long; longer steps than the longest tell nobody anything.
STEP_MAX_S = 31 * 86_400
POINTS, POINTS_MAX = 300, 2000


def check_names(names: Iterable[str], known: Collection[str], what: str) -> None:
    """Refuse a name that is not known.

    Args:
        what: what is named: a parameter, a field.

    Raises:
        BadRequest: there is one.
    """
    for name in names:
        if name not in known:
            meant = difflib.get_close_matches(name[: fields.NAME_MAX], known, n=1)
            hint = f"; {meant[0]} is meant?" if meant else f"; known are {', '.join(known)}"
            raise errors.BadRequest(f"unknown {what} {fields.shown(name)}{hint if known else ''}")


class Query:
    """The parameters of a call.

    Args:
        given: all names and values, in order.
        known: the names that the call knows.

    Raises:
        BadRequest: another name, or one that is given twice.
    """

    def __init__(self, given: Iterable[tuple[str, str]], *known: str) -> None:
        self._values: dict[str, str] = {}
        for name, value in given:
            check_names((name,), known, "parameter")
            if name in self._values:
                raise errors.BadRequest(f"{name}: given more than once")
            self._values[name] = value

    def text(self, name: str) -> str | None:
        """The value as it is; None if it is absent."""
        return self._values.get(name)

    def number(self, name: str, least: int, most: int) -> int | None:
        """The value as a whole number from `least` to `most`; None if it is absent."""
        value = self._values.get(name)
        if value is None:
            return None
        if not NUMBER.fullmatch(value):
            raise errors.BadRequest(f"{name}: {fields.shown(value)} is not a whole number")
        if not least <= int(value) <= most:
            raise errors.BadRequest(f"{name}: {int(value)} is not between {least} and {most}")
        return int(value)

    def instant(self, name: str) -> int | None:
        """The value as epoch seconds, rounded down; None if it is absent."""
        value = self._values.get(name)
        if value is None:
            return None
        if not INSTANT.fullmatch(value):
            # What a URL makes of a + that nobody wrote as %2B.
            hint = "; a + is %2B in a URL" if INSTANT.fullmatch(value.replace(" ", "+")) else ""
            raise errors.BadRequest(
                f"{name}: {fields.shown(value)} is not an instant such as 2026-11-23T12:00:00Z"
                f" or 2026-11-23T13:00:00+01:00{hint}"
            )
        try:
            at = math.floor(datetime.datetime.fromisoformat(value.upper()).timestamp())
        except ValueError as error:
            raise errors.BadRequest(f"{name}: {fields.shown(value)}: {error}") from None
        if not 0 <= at <= INSTANT_MAX:
            raise errors.BadRequest(
                f"{name}: {fields.shown(value)} is not in the years 1970 to 9999"
            )
        return at


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a team's history, in epoch seconds, and the length of its steps."""

    start: int
    end: int
    step_s: int

    @classmethod
    def of(cls, asked: Query, row: usage.Row) -> Self:
        """What from, to and step say; without them the open day until now in up to POINTS steps.

        Raises:
            BadRequest: it ends before it begins, or has more than POINTS_MAX steps.
        """
        start, end = asked.instant("from"), asked.instant("to")
        if start is None:
            start = math.floor(row.windows.start)
        if end is None:
            # In the first second of the day there is a span too.
            end = max(math.floor(row.now), math.floor(row.windows.start) + 1)
        if end <= start:
            raise errors.BadRequest(
                f"to: {window.iso(end)} is not after {window.iso(start)}, where from is"
            )
        step_s = asked.number("step", MINUTE_S, STEP_MAX_S)
        if step_s is None:
            step_s = min(_step_for(end - start, POINTS), STEP_MAX_S)
        if step_s % MINUTE_S:
            raise errors.BadRequest(f"step: {step_s} is not a multiple of {MINUTE_S} seconds")
        points = end // step_s - start // step_s
        if points > POINTS_MAX:
            raise errors.BadRequest(
                f"step: {step_s} seconds make {points} points from {window.iso(start)} to"
                f" {window.iso(end)}, at most {POINTS_MAX} are given:"
                f" {_step_for(end - start, POINTS_MAX)} would do"
            )
        return cls(start, end, step_s)


def _step_for(length_s: int, points: int) -> int:
    """The least step, in whole minutes, with which a length has no more points."""
    return max(1, -(-length_s // (points * MINUTE_S))) * MINUTE_S
