"""The agent's HTTP: what shippers push to, and what answers for it.

Rule 1: a push that Sluice refuses charges nothing and is counted by reason.
Rule 2: what upstream answers, the shipper sees, status and text; is_stored() says whether it
costs the team anything.
Rule 3: an unexpected exception is a defect of ours: 500, logged, counted, nothing charged.
"""

import functools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import flask
import werkzeug.exceptions

from sluice import api, errors, gate, judgement, metrics, usage
from sluice.agent import evaluate, turnstile, upstream
from sluice.wire import loki

log = logging.getLogger("sluice.agent")

MIB = 2**20
# A body that is too large is read to its end nevertheless, within these bounds: a shipper that is
# cut off in the middle sees a broken connection instead of 413, and sends it again.
DRAIN_MAX = 64 * MIB
DRAIN_S = 5.0
PIECE = 2**18
# Hop by hop, or ours to say.
NOT_FORWARDED = frozenset(
    """CONNECTION HOST KEEP_ALIVE PROXY_AUTHENTICATE PROXY_AUTHORIZATION PROXY_CONNECTION TE
    TRAILER TRANSFER_ENCODING UPGRADE EXPECT ACCEPT_ENCODING CONTENT_ENCODING X_FORWARDED_FOR
    """.split()  # noqa: SIM905 - one name a line would be fourteen lines
)
BLOCKED = 260


class Sender(Protocol):
    """Whoever takes pushes: upstream.Upstream, or a stand-in."""

    def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> upstream.Reply:
        """Send one push; raises Unavailable where there is no answer."""


def is_stored(status: int) -> bool:
    """Whether upstream keeps (part of) a push that it answers so: 2xx but 260, and 400."""
    return status == 400 or (200 <= status < 300 and status != BLOCKED)


def create_app(
    door: gate.Gate,
    sender: Sender,
    *,
    max_body: int = 8 * MIB,
    max_in_flight: int = 14,
    clock: Callable[[], float] = time.time,
    status: api.Status | None = None,
) -> flask.Flask:
    """The WSGI application of agent and `run`.

    Args:
        door: judges pushes.
        sender: takes what is left of them.
        max_body: bytes of a request's body, else 413.
        max_in_flight: pushes at work at a time, else 503.
        status: what /ready and /api/health say beside the gate's own state.
    """
    app = flask.Flask("sluice.agent", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    # A doubled slash in a shipper's URL is no reason for a redirect, which no shipper follows.
    app.url_map.merge_slashes = False
    turns = turnstile.Turnstile(max_in_flight)
    state = status or api.Status()
    counters = metrics.Metrics(door, clock, state, lambda: turns.inside)
    handler = PushHandler(door, sender, counters, turns, max_body, clock)
    for path in (upstream.PUSH_PATH, upstream.LEGACY_PATH):
        view = functools.partial(handler, path)
        app.add_url_rule(path, path, view, methods=["POST"])
    app.register_blueprint(api.blueprint(lambda now: usage.rows(door.ledger, now), clock, state))
    app.register_blueprint(evaluate.blueprint(door, clock, call_reader(turns, max_body)))
    app.add_url_rule("/metrics", "metrics", counters.response)
    errors_as_json(app, counters)
    return app


def call_reader(turns: turnstile.Turnstile, max_body: int) -> Callable[[], bytes]:
    """Reads the body of a call of evaluate, where there is a place.

    Slow senders must not take the threads that are spared for probes. But a house full of pushes
    that wait for upstream is no reason to refuse: one place is kept for calls.
    """
    kept = turnstile.Turnstile(1)

    def read() -> bytes:
        places = turns if turns.inside < turns.places else kept
        with places.turn():
            return read_body(flask.request.environ, max_body)

    return read


class PushHandler:
    """POST of a push: judge, forward, settle."""

    def __init__(
        self,
        door: gate.Gate,
        sender: Sender,
        counters: metrics.Metrics,
        turns: turnstile.Turnstile,
        max_body: int,
        clock: Callable[[], float],
    ) -> None:
        self._gate, self._sender, self._counters = door, sender, counters
        self._turns, self._max_body, self._clock = turns, max_body, clock

    def __call__(self, path: str) -> flask.Response:
        """Flask's view of one of the two paths."""
        with self._counters.timed_push(), self._turns.turn():
            environ = flask.request.environ
            # The body first: a shipper that is refused in the middle of it may not see why.
            body = read_body(environ, self._max_body)
            dialect = loki.dialect_of(environ.get("CONTENT_TYPE") or None, path)
            judged = self._gate.push(
                body,
                environ.get("HTTP_CONTENT_ENCODING", ""),
                now=self._clock(),
                dialect=dialect,
            )
            if judged.body is None:
                judged.commit()
                return passed_on(upstream.Reply(204))
            return self._forward(judged, path, environ)

    def _forward(
        self, judged: judgement.Judgement, path: str, environ: dict[str, str]
    ) -> flask.Response:
        headers = forwarded_headers(environ)
        if judged.encoding:
            headers["Content-Encoding"] = judged.encoding
        assert judged.body is not None
        try:
            with self._counters.timed_upstream():
                reply = self._sender.send(path, judged.body, headers)
        except BaseException:
            self._counters.upstream_answered("none")
            judged.refund()
            raise
        self._counters.upstream_answered(str(reply.status))
        if is_stored(reply.status):
            judged.commit(rejected=reply.status == 400)
        else:
            judged.refund()
        return passed_on(reply)


def passed_on(reply: upstream.Reply) -> flask.Response:
    """Upstream's answer as the shipper sees it.

    Raises:
        BadUpstream: it is none to pass on.
    """
    if 300 <= reply.status < 400:
        # Followed, a redirect would lead the shipper past its budget.
        raise BadUpstream(f"upstream answered {reply.status}: give its final URL to Sluice")
    if not 200 <= reply.status < 600:
        raise BadUpstream(f"upstream answered {reply.status}, which ends no push")
    response = flask.Response(
        reply.body, reply.status, content_type=reply.content_type or "text/plain"
    )
    if reply.retry_after:
        response.headers["Retry-After"] = reply.retry_after
    return response


class BadUpstream(errors.SluiceError):
    """Upstream answered a push with what is no answer to one."""

    status = 502


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


def forwarded_headers(environ: dict[str, str]) -> dict[str, str]:
    """The shipper's headers for upstream, and where the push came from."""
    named = environ.get("HTTP_CONNECTION", "").upper().replace("-", "_").split(",")
    left_out = NOT_FORWARDED.union(name.strip() for name in named)
    headers = {
        name[5:].replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_") and name[5:] not in left_out
    }
    headers["Content-Type"] = environ.get("CONTENT_TYPE", "")
    chain = [environ.get("HTTP_X_FORWARDED_FOR", ""), environ.get("REMOTE_ADDR", "")]
    headers["X-Forwarded-For"] = ", ".join(link for link in chain if link)
    return headers


def errors_as_json(app: flask.Flask, counters: metrics.Metrics) -> None:
    """Answer every error as {"error": ..., "status": ...}."""

    def refused(error: errors.SluiceError) -> flask.Response:
        counters.refused(error)
        return api.error_response(error.message, error.status)

    def unknown(error: werkzeug.exceptions.HTTPException) -> flask.Response:
        response = api.error_response(
            f"{flask.request.method} {flask.request.path}: {error.description}", error.code or 500
        )
        if isinstance(error, werkzeug.exceptions.MethodNotAllowed):
            response.headers["Allow"] = ", ".join(error.valid_methods or ())
        return response

    def broken(error: Exception) -> flask.Response:
        counters.broken()
        log.exception("%s %s failed", flask.request.method, flask.request.path)
        return api.error_response(f"internal error: {type(error).__name__}", 500)

    app.register_error_handler(errors.SluiceError, refused)
    app.register_error_handler(werkzeug.exceptions.HTTPException, unknown)
    app.register_error_handler(Exception, broken)
