"""The bound on what all pushes together may hold in memory."""

import threading

from sluice import errors

# A push that needs no more than SMALL may use all of the total; a larger one leaves it a share.
SMALL = 4 * 2**20
SMALL_SHARE = 16


class Memory:
    """A budget of bytes: bodies being received, decoded bytes, their index, and what is sent on.

    Callers take bytes before they allocate them and give them back when they let go. A sixteenth
    of the total is kept for small pushes: a few large ones that wait for upstream must not stop
    all the others.

    Threads: any number.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._taken = self._peak = 0
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """Bytes that are taken now."""
        return self._taken

    @property
    def peak(self) -> int:
        """The most bytes that were taken at one time."""
        return self._peak

    def most(self, needed: int) -> int:
        """The bytes that a push which needs `needed` of them may use, if it is alone."""
        return self.total if needed <= SMALL else self.total - self.total // SMALL_SHARE

    def take(self, size: int, held: int = 0) -> None:
        """Take `size` bytes for a push that holds `held` already.

        Raises:
            TooLarge: they would not fit if the push were alone. Nothing was taken.
            Unavailable: they do not fit now. Nothing was taken.
        """
        needed = held + size
        most = self.most(needed)
        if needed > most:
            raise errors.TooLarge(
                f"the push needs at least {needed} bytes of memory, at most {most} are allowed"
            )
        with self._lock:
            if self._taken + size > most:
                raise errors.Unavailable(
                    f"pushes hold {self._taken} bytes and this one needs {size} more,"
                    f" at most {most} are allowed"
                )
            self._taken += size
            self._peak = max(self._peak, self._taken)

    def give(self, size: int) -> None:
        """Give back `size` bytes that were taken."""
        with self._lock:
            self._taken -= size


class Claim:
    """What one push has taken of the memory.

    Args:
        beside: bytes that the push holds and that its caller has taken, such as its body.

    Threads: one at a time.
    """

    def __init__(self, memory: Memory, beside: int = 0) -> None:
        self._memory, self._beside = memory, beside
        self.size = 0

    def take(self, size: int) -> None:
        """Take `size` bytes more.

        Raises:
            TooLarge, Unavailable: see Memory.take(). Nothing was taken.
        """
        self._memory.take(size, self._beside + self.size)
        self.size += size

    def give(self, size: int) -> None:
        """Give back `size` of the bytes."""
        self.size -= size
        self._memory.give(size)

    def keep(self, size: int) -> None:
        """Give back all but `size` bytes."""
        if self.size > size:
            self.give(self.size - size)
