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
    """All teams at a moment.

    Attributes:
        number: one more than that of the snapshot before.
        taken: when, on the monotonic clock; `now` is the same in epoch seconds.
        teams, lines: by key, the lines in the order of the overview: fullest first.
        totals: the line above the table.
    """

    def __init__(
        self,
        before: "Snapshot | None",
        teams: Mapping[str, views.Team],
        now: float,
        currency: str,
    ) -> None:
        self.number: int = before.number + 1 if before else 0
        self.teams, self.now, self.taken = teams, now, time.monotonic()
        self._currency = currency
        lines = [(key, self._line(before, key, teams[key])) for key in sorted(teams)]
        self.lines = dict(sorted(lines, key=_fullness, reverse=True))
        self.totals = views.totals(teams.values(), now, currency)
        self._encoded: dict[str, bytes] = {}
        self._encoding = threading.Lock()

    def _line(self, before: "Snapshot | None", key: str, team: views.Team) -> views.Line:
        """A team's line; the one it had where nothing in it can have changed."""
        known = before.teams.get(key) if before else None
        if (
            before is not None
            and known is not None
            and known.outlook is team.outlook
            and known.per_gib == team.per_gib
            and (team.spent is None or before.now // views.MINUTE_S == self.now // views.MINUTE_S)
            and views.is_same(known.row, team.row)
        ):
            return before.lines[key]
        return views.line(team, self._currency)

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


def _fullness(item: tuple[str, views.Line]) -> str:
    """The key of the overview's order before anybody sorts it: by action, then by percent."""
    return item[1]["sort"].partition(" ")[0]
