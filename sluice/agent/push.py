"""POST of a push: judge, forward, settle.

Rule 1: a push that Sluice refuses charges nothing and is counted by reason.
Rule 2: what upstream answers, the shipper sees, status and text; see exchange.py.
Rule 3: an unexpected exception is a defect of ours: 500, logged, counted, nothing charged.

Plain WSGI: Flask's request and response objects would cost a third of a small push.
"""

import http
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sluice import api, errors, gate, metrics
from sluice.agent import exchange, turnstile, upstream, via
from sluice.wire import loki

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

log = logging.getLogger("sluice.agent")

MIB = 2**20
PATHS = (upstream.PUSH_PATH, upstream.LEGACY_PATH)
# A body that is too large is read to its end nevertheless, within these bounds: a shipper that is
# cut off in the middle sees a broken connection instead of 413, and sends it again.
DRAIN_MAX = 64 * MIB
DRAIN_S = 5.0
PIECE = 2**18
# Hop by hop, or ours to say.
NOT_FORWARDED = frozenset(
    """HTTP_CONNECTION HTTP_HOST HTTP_KEEP_ALIVE HTTP_PROXY_AUTHENTICATE HTTP_PROXY_AUTHORIZATION
    HTTP_PROXY_CONNECTION HTTP_TE HTTP_TRAILER HTTP_TRANSFER_ENCODING HTTP_UPGRADE HTTP_EXPECT
    HTTP_ACCEPT_ENCODING HTTP_CONTENT_ENCODING HTTP_X_FORWARDED_FOR
    """.split()  # noqa: SIM905 - one name a line would be fourteen lines
)
PHRASES = {status.value: status.phrase for status in http.HTTPStatus}


class PushHandler:
    """The WSGI application of the two paths that pushes come in on.

    Threads: any number.
    """

    def __init__(
        self,
        door: gate.Gate,
        sender: exchange.Sender,
        counters: metrics.PushMetrics,
        turns: turnstile.Turnstile,
        max_body: int,
        clock: Callable[[], float],
    ) -> None:
        self._gate, self._sender, self._counters = door, sender, counters
        self._turns, self._max_body, self._clock = turns, max_body, clock
        self._via = via.Via()

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
        try:
            with self._counters.timed_push(), self._turns:
                reply = self._handle(environ)
        except errors.SluiceError as error:
            self._counters.refused(error)
            reply = refusal(error.message, error.status)
        except Exception as error:
            self._counters.broken()
            log.exception("POST %s failed", environ["PATH_INFO"])
            reply = refusal(f"internal error: {type(error).__name__}", 500)
        headers = []
        if reply.body:
            headers.append(("Content-Type", reply.content_type or "text/plain"))
        if reply.status != http.HTTPStatus.NO_CONTENT:
            headers.append(("Content-Length", str(len(reply.body))))
        if reply.retry_after:
            headers.append(("Retry-After", reply.retry_after))
        start_response(f"{reply.status} {PHRASES.get(reply.status, 'Unknown')}", headers)
        return [reply.body]

    def _handle(self, environ: "WSGIEnvironment") -> upstream.Reply:
        target = request_target(environ)
        # The body first: a shipper that is refused in the middle of it may not see why.
        body = read_body(environ, self._max_body)
        self._turns.moved()
        dialect = loki.dialect_of(environ.get("CONTENT_TYPE") or None, target)
        encoding = environ.get("HTTP_CONTENT_ENCODING", "")
        # Before anything is reserved: from there on, whatever is raised must give it back.
        headers = forwarded_headers(environ)
        self._via.add_to(headers)
        judged = self._gate.push(body, encoding, now=self._clock(), dialect=dialect)
        self._turns.moved()
        if judged.body is None:
            judged.commit()
            return upstream.Reply(204)
        if judged.encoding:
            headers["Content-Encoding"] = judged.encoding
        return exchange.forward(judged, judged.body, target, headers, self._sender, self._counters)


def request_target(environ: dict[str, Any]) -> str:
    """The path, and the query where there is one: Loki chooses the dialect by both.

    Raises:
        BadPush: the query cannot stand in a request line.
    """
    path, query = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
    if not query:
        return str(path)
    if not (query.isascii() and query.isprintable() and " " not in query):
        raise errors.BadPush("the query string holds a character that has to be escaped")
    return f"{path}?{query}"


def refusal(message: str, status: int) -> upstream.Reply:
    """Our own answer instead of upstream's."""
    return upstream.Reply(
        status, api.error_body(message, status), "application/json", api.retry_after(status)
    )


def read_body(environ: dict[str, Any], limit: int) -> bytes:
    """The request's body.

    Raises:
        TooLarge: more than `limit` bytes; not one more than that was kept.
        BadPush: it ends before it should.
    """
    declared, read = environ.get("CONTENT_LENGTH") or "", environ["wsgi.input"].read
    wanted = int(declared) if declared.isdecimal() else 0
    # The server holds a sender to a declared length; read with a bound, it would hold more than
    # twice as much memory for as long as the push waits for upstream.
    body: bytes = b"" if wanted > limit else read() if wanted else read(limit + 1)
    if wanted > limit or len(body) > limit:
        drain(read)
        size = wanted or f"more than {limit}"
        raise errors.TooLarge(f"a body of {size} bytes, at most {limit} are taken")
    if len(body) < wanted:
        raise errors.BadPush(f"the body ends after {len(body)} of {wanted} bytes")
    return body


def drain(read: Callable[..., bytes]) -> None:
    """Read what is left of a body that nobody wants, unless it is too much or too slow."""
    until = time.monotonic() + DRAIN_S
    for _ in range(DRAIN_MAX // PIECE):
        if not read(PIECE) or time.monotonic() > until:
            return


def forwarded_headers(environ: dict[str, Any]) -> dict[str, str]:
    """The shipper's headers for upstream, and where the push came from."""
    named = environ.get("HTTP_CONNECTION", "").upper().replace("-", "_").split(",")
    connection_only = {f"HTTP_{name.strip()}" for name in named}
    headers = {
        name[5:].replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_") and name not in NOT_FORWARDED and name not in connection_only
    }
    headers["Content-Type"] = environ.get("CONTENT_TYPE", "")
    chain = [environ.get("HTTP_X_FORWARDED_FOR", ""), environ.get("REMOTE_ADDR", "")]
    headers["X-Forwarded-For"] = ", ".join(link for link in chain if link)
    return headers
