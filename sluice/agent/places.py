"""How many requests may be at work, and which of the others wait for a place.

A hanging upstream keeps every push that is let in for the whole timeout. So a request waits only
while others get on, and is refused once all of them stand still.

One peer may have three quarters of the places, and of the requests that wait the first is the one
whose peer has the fewest; where no more may wait, the peer with the most loses its last. So a peer
whose requests take long, or are many, does not keep the others out. A peer that comes alone may be
a proxy that all shippers come through: it may have all places until another comes.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sluice import errors
from sluice.agent import inline

# Those who wait are looked after this often. All stand still when LOOKS looks in a row saw none
# get further. Seen, not timed: in a process that gets no CPU no request gets further.
LOOK_S, LOOKS = 0.005, 4
# This part of the places is for other peers than the one that has most of them.
SPARED = 4
MIXED_S = 60.0


@dataclass(slots=True)
class Waiting:
    """A request without a place."""

    peer: str
    until: float
    waiter: inline.Waiter = field(default_factory=inline.Waiter)


class Places:
    """Lets `count` requests in at a time; the others wait in the order in which they came.

    Args:
        wait_s: how long a request may wait.
        waiting_max: how many may.
        is_patient: requests wait though all that are inside stand still.
        wake: called when the last place is taken: look() is due every LOOK_S.

    Threads: any number.
    """

    def __init__(
        self,
        count: int,
        *,
        wait_s: float,
        waiting_max: int = 1000,
        is_patient: bool = False,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self.count, self.inside = count, 0
        self.share = count - count // SPARED
        # Places by peer; a Counter's methods are Python, and slow.
        self._held: dict[str, int] = {}
        self._last_peer, self._mixed_at = "", float("-inf")
        self.wake = wake
        self._wait_s, self._waiting_max, self._is_patient = wait_s, waiting_max, is_patient
        self._lock = threading.Lock()
        self._waiting: deque[Waiting] = deque()
        self._progress, self._seen, self._still = 0, 0, 0

    def is_stuck(self, peer: str = "") -> bool:
        """Whether the peer can have no place, and nobody inside got further of late."""
        return (
            self._still >= LOOKS
            and self._is_full(peer)
            and self._progress == self._seen
            and not self._is_patient
        )

    def _is_full(self, peer: str) -> bool:
        return self.inside >= self.count or self._held.get(peer, 0) >= self._most()

    def _most(self) -> int:
        """The places that one peer may have: all, while no other has come for MIXED_S."""
        is_mixed = time.monotonic() - self._mixed_at < MIXED_S
        return self.share if is_mixed else self.count

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def note_progress(self) -> None:
        """Say that a request inside has got further."""
        # A lost update does no harm: it is another number than before all the same.
        self._progress += 1

    def enter(self, peer: str = "") -> inline.Waiter | None:
        """Take a place, which leave() gives back; None, or what to await before it is there.

        Args:
            peer: the address that the request came from.

        Raises:
            Unavailable: none is free for the peer, and it makes no sense to wait. So does the
                waiter.
        """
        with self._lock:
            if peer != self._last_peer:
                if self._last_peer:
                    self._mixed_at = time.monotonic()
                self._last_peer = peer
            if not self._is_full(peer):
                self.inside += 1
                self._held[peer] = self._held.get(peer, 0) + 1
                if self.inside == self.count:
                    self.wake()
                return None
            if self.is_stuck(peer):
                raise self.full()
            crowded_out = self._crowded_out(peer)
            one = Waiting(peer, time.monotonic() + self._wait_s)
            self._waiting.append(one)
            self.wake()
        if crowded_out is not None:
            crowded_out.waiter.set(self.full())
        return one.waiter

    def _crowded_out(self, peer: str) -> Waiting | None:
        """Make room for one more to wait; returns the one that has to go, if any.

        Raises:
            Unavailable: no peer has more requests that wait than this one.
        """
        if len(self._waiting) < self._waiting_max:
            return None
        waits = Counter(one.peer for one in self._waiting)
        greediest, most = waits.most_common(1)[0]
        if waits[peer] >= most:
            raise self.full()
        last = next(one for one in reversed(self._waiting) if one.peer == greediest)
        self._waiting.remove(last)
        return last

    def leave(self, peer: str = "") -> None:
        """Give a place back, or to the request that is to have it next."""
        with self._lock:
            self._progress += 1
            self._held[peer] -= 1
            if not self._held[peer]:
                del self._held[peer]
            following = self._following()
            if following is None:
                self.inside -= 1
                return
            # From hand to hand: the one who leaves comes again at once, and would be faster.
            self._waiting.remove(following)
            self._held[following.peer] = self._held.get(following.peer, 0) + 1
        following.waiter.set()

    def _following(self) -> Waiting | None:
        """Of the requests that wait, the oldest one of the peer with the fewest places."""
        if not self._waiting:
            return None
        found = min(self._waiting, key=lambda one: self._held.get(one.peer, 0))
        return found if self._held.get(found.peer, 0) < self._most() else None

    def look(self) -> bool:
        """Refuse who has waited too long, or all where none gets on; whether to look again soon."""
        with self._lock:
            progress, now, refused = self._progress, time.monotonic(), []
            self._still = self._still + 1 if progress == self._seen else 0
            self._seen = progress
            is_hopeless = self._still >= LOOKS and not self._is_patient
            while self._waiting and (is_hopeless or self._waiting[0].until <= now):
                refused.append(self._waiting.popleft())
            # Where nothing moves, it is enough to have seen that once.
            goes_on = bool(self._waiting) or (self.inside >= self.count and self._still < LOOKS)
        for one in refused:
            one.waiter.set(self.full())
        return goes_on

    def full(self) -> errors.Unavailable:
        """The refusal of a request for which there is no place."""
        return errors.Unavailable(
            f"{self.inside} requests are being handled, at most {self.count} are let in"
        )
