"""What Sluice says when it refuses something that came from outside.

Rule 1: a `SluiceError` is somebody else's mistake, or the world's; it carries the HTTP
status that says so. Our own mistakes are `ValueError` and `IndexError`, so that an alert
on status 500 means a defect of Sluice.
Rule 2: a message says what, where, and the two numbers that disagree.
"""

# Bytes of a client that an error shows at most.
EXCERPT_BYTES = 100


class SluiceError(Exception):
    """Something was refused; `status` is the HTTP status that tells the caller so."""

    status = 500

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def excerpt(raw: bytes) -> str:
    """The beginning of what a client sent, in quotes, for the text of an error."""
    return '"' + repr(raw[:EXCERPT_BYTES])[2:-1] + '"'


class BadRequest(SluiceError):
    """A call of the REST API that cannot be understood."""

    status = 400


class BadPush(SluiceError):
    """A push whose bytes cannot be read as what its headers say. Nothing was charged."""

    status = 400


class TooLarge(SluiceError):
    """A push over one of the size limits. Nothing was allocated for it, nothing charged."""

    status = 413


class BadBudget(SluiceError):
    """A TeamBudget that the CRD, too, would refuse; `field` is the path of the culprit."""

    status = 422

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


class Unavailable(SluiceError):
    """Sluice or its upstream cannot take this now; the shipper is to send it again."""

    status = 503
