"""What the API server says when it does not do what it was asked, or says nothing at all."""

import http.client
from typing import Any

from sluice import errors

# A validation error may quote the whole object.
MESSAGE_MAX = 1000


class ApiError(errors.SluiceError):
    """The API server said no, or nothing.

    Args:
        status: what it answered; without, the status of the class.
        reason: Kubernetes' word for it, such as AlreadyExists; "" where nothing came.
        retry_after_s: when it wants to be asked again; 0.0 if it did not say.
    """

    status = 502

    def __init__(
        self, message: str, status: int = 0, reason: str = "", retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message)
        self.status = status or type(self).status
        self.reason = reason
        self.retry_after_s = retry_after_s


class NotFound(ApiError):
    """There is no such object, or no such kind of object (the CRD is not installed)."""

    status = 404


class Conflict(ApiError):
    """Somebody else has changed, or made, the object."""

    status = 409

    @property
    def already_exists(self) -> bool:
        """Whether it was to be made, and is there."""
        return self.reason == "AlreadyExists"


class Invalid(ApiError):
    """The object is not what its schema or rules allow; the message is the API server's."""

    status = 422


class Gone(ApiError):
    """The version to continue from is too old: list again."""

    status = 410


class Unauthorized(ApiError):
    """The API server does not know us, also after the credentials were read again."""

    status = 401


class Forbidden(ApiError):
    """It knows us, and we may not."""

    status = 403


class Terminating(Forbidden):
    """It cannot be made, because its CRD is being deleted."""


class Throttled(ApiError):
    """Too many requests; `retry_after_s` says when to come again."""

    status = 429


class Unreachable(ApiError):
    """No usable answer: refused, reset, timed out, bad TLS, not JSON, or 5xx.

    Whether a write was done is not known.
    """

    status = 503


# The words of apiextensions-apiserver, with 403 where it was seen.
ENDING = "not allowed while custom resource definition is terminating"

KINDS: dict[int, type[ApiError]] = {
    kind.status: kind
    for kind in (
        *(NotFound, Conflict, Invalid, Gone),
        *(Unauthorized, Forbidden, Throttled),
    )
}


def refused(what: str, status: int, answer: dict[str, Any], retry_after_s: float) -> ApiError:
    """The error for an answer of this status, whose object is a Kubernetes `Status`."""
    message = " ".join(str(answer.get("message", "")).split())[:MESSAGE_MAX]
    reason = str(answer.get("reason", ""))
    details = answer.get("details")
    if isinstance(details, dict) and not retry_after_s:
        retry_after_s = float(details.get("retryAfterSeconds", 0))
    kind = Unreachable if status >= http.client.INTERNAL_SERVER_ERROR else KINDS.get(status)
    if status < http.client.INTERNAL_SERVER_ERROR and ENDING in message:
        kind = Terminating
    text = f"{what}: {status} {reason}".rstrip()
    return (kind or ApiError)(
        f"{text}: {message}" if message else text, status, reason, retry_after_s
    )
