"""Records in memory, for tests of what shows them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sluice import errors
from sluice.records import Event, Place, Point

HUGE = 2**63 - 1


@dataclass
class Past:
    """Keeps what a test gives it; `trouble` says that whoever keeps the past does not answer."""

    points: dict[str, list[Point]] = field(default_factory=dict)
    places: dict[str, tuple[list[Place], list[Place]]] = field(default_factory=dict)
    happened: list[Event] = field(default_factory=list)
    trouble: str = ""
    calls: list[tuple[object, ...]] = field(default_factory=list)

    def history(self, key: str, start: int, end: int, step_s: int) -> Sequence[Point]:
        self._asked(key, start, end, step_s)
        return [
            point
            for point in self.points.get(key, [])
            if start < point.at <= end and point.at % step_s == 0
        ]

    def top(self, key: str, start: int, count: int) -> tuple[Sequence[Place], Sequence[Place]]:
        self._asked(key, start, count)
        namespaces, apps = self.places.get(key, ([], []))
        return namespaces[:count], apps[:count]

    def events(self, key: str | None, count: int) -> Sequence[Event]:
        self._asked(key, count)
        return [one for one in self.happened if key in (None, one.key)][:count]

    def _asked(self, *what: object) -> None:
        self.calls.append(what)
        if self.trouble:
            raise errors.Unavailable(self.trouble)


def full(key: str, now: int) -> Past:
    """A past in which a team has everything, with numbers that no double can hold."""
    minute = now - now % 60
    points = [Point(minute - 60 * i, HUGE - i, 2 * HUGE, HUGE, 2**53 + 1, 0, 0) for i in range(60)]
    eaten = [Place("shop", HUGE), Place("<b>[red]\u202e'\"\n", 2**53 + 1)]
    return Past(
        {key: points[::-1]},
        {key: (eaten, eaten)},
        [
            Event(now, key, "Warning", "BudgetExceeded", "80 % of 100 bytes"),
            Event(now - 5, "", "Normal", "Started", "\x00</script>"),
        ],
    )
