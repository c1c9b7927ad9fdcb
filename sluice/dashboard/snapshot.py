"""Snapshots: all teams at a moment as texts, and what differs from one to the next. No I/O."""

import json
import threading
import time
from collections.abc import Callable, Mapping

from sluice.dashboard import views


class Change:
    """What differs from one snapshot to the next: texts by key and name, and the keys that went.

    Attributes:
        number: of the later snapshot.
    """

    def __init__(
        self, number: int, before: Mapping[str, views.Line], after: Mapping[str, views.Line]
    ) -> None:
        self.number = number
        self.rows: dict[str, views.Line] = {}
        for key, line in after.items():
            known = before.get(key, {})
            if line is not known and line != known:
                self.rows[key] = {
                    name: text for name, text in line.items() if known.get(name) != text
                }
        self.gone = [key for key in before if key not in after]


class Snapshot:
    """All teams at a moment. A team's line is made when somebody asks for it first.

    Attributes:
        number: one more than that of the snapshot before.
        taken: when, on the monotonic clock; `now` is the same in epoch seconds.
        teams: by key, in the order of the overview before anybody sorts it: fullest first.
        totals: the line above the table.

    Threads: any number.
    """

    def __init__(
        self,
        before: "Snapshot | None",
        teams: Mapping[str, views.Team],
        now: float,
        currency: str,
    ) -> None:
        self.number: int = before.number + 1 if before else 0
        self.now, self.taken = now, time.monotonic()
        self.teams = dict(
            sorted(sorted(teams.items()), key=lambda item: views.fullness(item[1]), reverse=True)
        )
        self._currency = currency
        # It does not keep the snapshot before: that has one before, too.
        self._lines = {} if before is None else self._unchanged(before)
        self.totals = views.totals(teams.values(), now, currency)
        self._encoded: dict[str, bytes] = {}
        self._encoding = threading.Lock()

    def _unchanged(self, before: "Snapshot") -> dict[str, views.Line]:
        """The lines of the snapshot before whose texts are still true."""
        return {
            key: line
            for key, line in list(before._lines.items())
            if (team := self.teams.get(key)) and views.reads_the_same(before.teams[key], team)
        }

    def line(self, key: str) -> views.Line:
        """A team's line: the same object each time."""
        found = self._lines.get(key)
        if found is None:
            found = self._lines.setdefault(key, views.line(self.teams[key], self._currency))
        return found

    @property
    def lines(self) -> dict[str, views.Line]:
        """All lines by key."""
        return {key: self.line(key) for key in self.teams}

    def everything(self) -> bytes:
        """All lines, as JSON."""
        return self.once("*", lambda: {"all": True, "rows": self.lines, "totals": self.totals})

    def delta(self, change: Change) -> bytes:
        """What a change brought, as JSON; with the totals of now."""
        return self.once(
            f"+{change.number}",
            lambda: {"rows": change.rows, "gone": change.gone, "totals": self.totals},
        )

    def detail(self, key: str) -> bytes:
        """The head of a team's page, as JSON; {"gone": true} where there is no such team."""
        team = self.teams.get(key)
        if team is None:
            return b'{"gone": true}'
        return self.once(f"/{key}", lambda: {"texts": views.detail(team, self._currency)})

    def once(self, name: str, make: Callable[[], object]) -> bytes:
        """The JSON of this name, made the first time that somebody asks for it."""
        with self._encoding:
            found = self._encoded.get(name)
            if found is None:
                found = self._encoded[name] = json.dumps(make()).encode()
            return found
