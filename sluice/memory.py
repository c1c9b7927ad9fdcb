"""The bound on what all pushes together may hold in memory."""

import threading

from sluice import errors


class Memory:
    """A budget of bytes: bodies being received, decoded bytes, their index, and what is sent on.

    Callers take bytes before they allocate them and give them back when they let go.

    Threads: any number.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._taken = 0
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """Bytes that are taken now."""
        return self._taken

    def take(self, size: int) -> None:
        """Take `size` bytes.

        Raises:
            Unavailable: they do not fit. Nothing was taken.
        """
        with self._lock:
            if self._taken + size > self.total:
                raise errors.Unavailable(
                    f"pushes hold {self._taken} bytes and this one needs {size} more,"
                    f" at most {self.total} are allowed"
                )
            self._taken += size

    def give(self, size: int) -> None:
        """Give back `size` bytes that were taken."""
        with self._lock:
            self._taken -= size
