"""Recognises pushes that come back: RFC 9110, 7.6.3."""

import secrets

from sluice import errors


class LoopDetected(errors.SluiceError):
    """A push that this very process has sent upstream."""

    status = 508


class Via:
    """Writes the name of this process into the pushes that it sends, and knows it again.

    The name is another one at each start, so a chain of several Sluices is no loop.
    """

    def __init__(self) -> None:
        self._name = f"sluice-{secrets.token_hex(8)}"

    def add_to(self, headers: dict[str, str]) -> None:
        """Add this process to the header Via of a push.

        Args:
            headers: their names in lower case.

        Raises:
            LoopDetected: it is there already.
        """
        passed = headers.get("via", "")
        if self._name in passed:
            raise LoopDetected(
                "this push comes from this Sluice itself: --upstream leads back to it, give the"
                " address of Loki"
            )
        headers["via"] = f"{passed}, 1.1 {self._name}" if passed else f"1.1 {self._name}"
