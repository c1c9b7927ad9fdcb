"""What a sink is: somewhere people look, and how it is reached.

A Sink takes changes and keeps no state: what it was told is kept for it (told.py). A Keeper is told
again and again what holds, like Alertmanager. Each is called by one thread at a time.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from sluice import errors
from sluice.notify.change import Change
from sluice.notify.rules import Conditions


class SinkFailed(errors.SluiceError):
    """A sink did not take what it was sent; the message has no secrets.

    `retry_after_s` is the least time that the sink asked for before the next attempt, or 0.
    """

    status = 502

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Done(NamedTuple):
    """An attempt that did not fail: whether anything had to be sent, and after how many seconds the
    next is due unasked; None: never."""

    has_sent: bool
    again_s: float | None


class Sink(Protocol):
    """Somewhere changes are told.

    Attributes:
        id: what is kept of it: lower case, digits and dashes, at most 50 characters.
        label: what people know it by, without secrets.
        rules: what it is told of, whatever the team's rules are; None: what they say.
    """

    id: str
    label: str
    rules: tuple[str, ...] | None

    def send(self, changes: Sequence[Change]) -> None:
        """Tell these, at least one, together.

        Raises:
            SinkFailed: it did not take them, or not all; they will be sent again.
        """


@runtime_checkable
class Keeper(Protocol):
    """Somewhere that is told all that holds, on each change and every so often.

    Attributes as a Sink's, and:
        retry_max_s: the longest pause before an attempt that follows failures.
    """

    id: str
    label: str
    retry_max_s: float

    def attempt(self, holding: Conditions, now: float) -> Done:
        """Bring it up to date.

        Raises:
            SinkFailed: it did not take it all.
        """

    def waiting(self, holding: Conditions) -> int:
        """How many changes it has not taken yet."""
