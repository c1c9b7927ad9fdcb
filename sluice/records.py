"""Records: what happened to teams before now, as those that keep it hand it out. Pure.

The REST API and the dashboard show Records; `run` keeps its own, on a cluster they come from
Prometheus and from Kubernetes' Events.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sluice import errors, window


class NotKept(errors.SluiceError):
    """This process does not keep what was asked for; the message says who does."""

    status = 404


@dataclass(frozen=True, slots=True)
class Point:
    """A step of a team's history that ends at `at` (epoch seconds, whole).

    `day_usage` and `month_usage` are bytes of the windows that were open then; the others are
    bytes in this step, by what became of them. They are whole numbers.
    """

    at: int
    day_usage: int
    month_usage: int
    forwarded: int
    sampled: int
    dropped: int
    refused: int

    def as_json(self) -> dict[str, object]:
        """A point of the REST API."""
        return {
            "time": window.iso(self.at),
            "dayUsage": self.day_usage,
            "monthUsage": self.month_usage,
            "forwarded": self.forwarded,
            "sampled": self.sampled,
            "dropped": self.dropped,
            "refused": self.refused,
        }


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes forwarded of an application, or from a namespace, in a team's open day."""

    name: str
    size: int

    def as_json(self) -> dict[str, object]:
        """A place of the REST API."""
        return {"name": self.name, "bytes": self.size}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a team, by its budget's key; "" for none in particular.

    `kind` is Normal or Warning, `reason` a CamelCase word, as in Kubernetes' Events.
    """

    at: float
    key: str
    kind: str
    reason: str
    text: str

    def as_json(self) -> dict[str, object]:
        """An event of the REST API."""
        namespace, _, name = self.key.rpartition("/")
        return {
            "time": window.iso(self.at),
            "namespace": namespace,
            "name": name,
            "type": self.kind,
            "reason": self.reason,
            "message": self.text,
        }


class KeepsHistory(Protocol):
    """Whoever knows what was counted in the past; see Records."""

    def history(self, key: str, start: int, end: int, step_s: int) -> Sequence[Point]:
        """Points of a team, oldest first, that end after `start` and not after `end`.

        Args:
            start, end: epoch seconds.
            step_s: seconds, a multiple of 60; points end at multiples of it, so the one that
                has not ended yet is absent. A step of which nothing is known is absent too.
        """


class KeepsTop(Protocol):
    """Whoever knows where bytes came from; see Records."""

    def top(self, key: str, start: int, count: int) -> tuple[Sequence[Place], Sequence[Place]]:
        """The namespaces and the applications of a team that most bytes came from since `start`,
        the largest first; at most `count` of each."""


class KeepsEvents(Protocol):
    """Whoever knows what happened; see Records."""

    def events(self, key: str | None, count: int) -> Sequence[Event]:
        """The last events, of one team or of all, newest first."""


class Records(KeepsHistory, KeepsTop, KeepsEvents, Protocol):
    """What is known of the past.

    Each method may raise NotKept, and errors.Unavailable if whoever keeps it does not answer.

    Threads: any number.
    """


class Together:
    """Records that are kept in different places: each part is asked of its own keeper.

    Threads: any number.
    """

    def __init__(self, *, history: KeepsHistory, top: KeepsTop, events: KeepsEvents) -> None:
        self.history, self.top, self.events = history.history, top.top, events.events


class NotHere:
    """Records that nobody keeps; `reason` says so, and what to do about it.

    Threads: any number.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def history(self, key: str, start: int, end: int, step_s: int) -> Sequence[Point]:
        """Never any; raises NotKept."""
        raise NotKept(self._reason)

    def top(self, key: str, start: int, count: int) -> tuple[Sequence[Place], Sequence[Place]]:
        """Never any; raises NotKept."""
        raise NotKept(self._reason)

    def events(self, key: str | None, count: int) -> Sequence[Event]:
        """Never any; raises NotKept."""
        raise NotKept(self._reason)
