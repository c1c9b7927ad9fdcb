"""Bounds the memory that all pushes together may hold."""

import threading
from typing import Any

from sluice import errors

MIB = 2**20
# A push that needs no more than SMALL may use all of the total; a larger one leaves it a share.
SMALL = 4 * MIB
SMALL_SHARE = 16
# Buffers that are kept for the next push. New pages for each push cost more CPU than the work that
# is done in them. But an agent that has nothing to do should be small.
IDLE_BYTES, IDLE_NUMBER = 32 * MIB, 16
# A larger buffer is not kept: few pushes need it, and it would be most of what is.
PART_BYTES = 8 * MIB


class Memory:
    """A budget of bytes: bodies being received, decoded bytes, their index, and what is sent on.

    Callers take bytes before they allocate them and give them back when they let go. A sixteenth
    of the total is kept for small pushes: a few large ones that wait for upstream must not stop
    all the others. Buffers that are idle are in the total, and go when their room is needed.

    Threads: any number.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        # A push that needs no more than this may be sure of what it has.
        self.small = min(SMALL, total)
        self._taken = self._peak = 0
        # What is kept for the next push, by its kind, with its bytes.
        self._idle: dict[str, list[tuple[Any, int]]] = {}
        self._idle_bytes = 0
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """Bytes that are taken now, without those of idle buffers."""
        return self._taken

    @property
    def idle(self) -> int:
        """Bytes of idle buffers."""
        return self._idle_bytes

    @property
    def peak(self) -> int:
        """The most bytes that were taken at one time, without those of idle buffers."""
        return self._peak

    def most(self, needed: int) -> int:
        """The bytes that a push which needs `needed` of them may use, if it is alone."""
        return self.total if needed <= SMALL else self.total - self.total // SMALL_SHARE

    def take(self, size: int, needed: int = 0) -> None:
        """Take `size` bytes for a push that needs `needed` with them; less than `size`: just them.

        Raises:
            TooLarge: they would not fit if the push were alone. Nothing was taken.
            Unavailable: they do not fit now. Nothing was taken.
        """
        if needed < size:
            needed = size
        most = self.most(needed)
        if needed > most:
            raise errors.TooLarge(
                f"the push needs at least {needed} bytes of memory, at most {most} are allowed"
            )
        if not size:
            return
        with self._lock:
            taken = self._taken + size
            if taken + self._idle_bytes > most:
                self._idle.clear()
                self._idle_bytes = 0
            if taken > most:
                raise errors.Unavailable(
                    f"pushes hold {self._taken} bytes and this one needs {size} more,"
                    f" at most {most} are allowed"
                )
            self._taken = taken
            if taken > self._peak:
                self._peak = taken

    def give(self, size: int) -> None:
        """Give back `size` bytes that were taken."""
        with self._lock:
            self._taken -= size

    def lend(self, kind: str) -> tuple[Any, int]:
        """What of this kind was kept last, and its bytes, which are taken from now on.

        Returns:
            None and 0 where there is nothing.
        """
        with self._lock:
            idle = self._idle.get(kind)
            if not idle:
                return None, 0
            kept, size = idle.pop()
            self._idle_bytes -= size
            self._taken += size
            if self._taken > self._peak:
                self._peak = self._taken
            return kept, size

    def keep(self, kind: str, kept: object, size: int, given: int) -> None:
        """Give back `given` bytes, `size` of them those of `kept`, which is kept for lend().

        Where too much is kept already, it is forgotten.
        """
        with self._lock:
            self._taken -= given
            fits = self._idle_bytes + size <= min(IDLE_BYTES, self.total - self._taken)
            idle = self._idle.setdefault(kind, [])
            if fits and len(idle) < IDLE_NUMBER:
                idle.append((kept, size))
                self._idle_bytes += size


class Claim:
    """What one push has taken of the memory.

    Args:
        beside: bytes that the push needs and that its caller has taken, such as its body.

    Attributes:
        size: bytes that are taken, those of buffers that were lent among them.

    Threads: one at a time.
    """

    def __init__(self, memory: Memory, beside: int = 0) -> None:
        self._memory, self._needed = memory, beside
        self.size = 0

    def take(self, size: int, lent: int = 0) -> None:
        """Take `size` bytes more, but for `lent` of them, which the push has already.

        Raises:
            TooLarge, Unavailable: see Memory.take(). Nothing was taken.
        """
        more, needed = size - lent, self._needed + size
        if more or needed > self._memory.small:
            self._memory.take(more, needed)
        self._needed = needed
        self.size += more

    def give(self, size: int, lent: int = 0) -> None:
        """Give back what take() took."""
        self._needed -= size
        self.size -= size - lent
        self._memory.give(size - lent)

    def lend(self, kind: str) -> Any:
        """What was kept of this kind, or None."""
        kept, size = self._memory.lend(kind)
        self.size += size
        return kept

    def keep(self, size: int) -> None:
        """Give back all but `size` bytes."""
        if self.size > size:
            self._memory.give(self.size - size)
            self.size = size

    def end(self, size: int, kind: str, kept: object, kept_bytes: int) -> None:
        """Give back all but `size` bytes; `kept`, which has `kept_bytes` of them, is kept."""
        self._memory.keep(kind, kept, kept_bytes, self.size - size)
        self.size = size


class Part:
    """What a buffer that is used by one push after another holds of the memory.

    Attributes:
        held: bytes that are taken for it: the most that were used since it was made.

    Threads: one at a time.
    """

    def __init__(self, claim: Claim | None = None) -> None:
        self.held = 0
        self.begin(claim)

    def begin(self, claim: Claim | None) -> None:
        """Count for this claim from now on; None: do not count."""
        self.claim = claim
        self._used, self._before = 0, self.held

    def use(self, n: int) -> None:
        """Use at least `n` bytes of it; must come before they are allocated.

        Raises:
            TooLarge, Unavailable: see Memory.take().
        """
        more = n - self._used
        if more <= 0:
            return
        held = self.held
        if self.claim is not None:
            self.claim.take(more, more if n <= held else max(held - self._used, 0))
        self._used = n
        if n > held:
            self.held = n

    def used(self, n: int) -> None:
        """No more than `n` bytes were written to: the rest is given back."""
        if self._used > n:
            held = max(n, self._before)
            freed = max(self.held - held, 0)
            if self.claim is not None:
                self.claim.give(self._used - n, self._used - n - freed)
            self._used, self.held = n, self.held - freed

    def leave(self) -> int:
        """Leave what it holds to the claim, and be empty; returns those bytes."""
        held = self.held
        self._used = self.held = self._before = 0
        return held

    def drop(self) -> None:
        """It was let go."""
        if self.claim is not None:
            self.claim.give(self._used, self._used - self.held)
        self.leave()
