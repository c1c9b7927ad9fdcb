"""The agent's HTTP: what shippers push to, and what answers for it.

Rule 1: a push that Sluice refuses charges nothing and is counted by reason.
Rule 2: what upstream answers, the shipper sees, status and text; what it costs the team is
written in SETTLED.
Rule 3: an unexpected exception is a defect of ours: 500, logged, counted, nothing charged.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import flask
import werkzeug.exceptions

from sluice import api, errors, gate, metrics, usage
from sluice.agent import evaluate, turnstile, upstream
from sluice.wire import loki

log = logging.getLogger("sluice.agent")

MIB = 2**20
RETRY_AFTER = {"Retry-After": "1"}
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
    turns = turnstile.Turnstile(max_in_flight)
    state = status or api.Status()
    counters = metrics.Metrics(door, clock, state, lambda: turns.inside)
    handler = PushHandler(door, sender, counters, turns, max_body, clock)
    for path in (upstream.PUSH_PATH, upstream.LEGACY_PATH):
        app.add_url_rule(path, path, handler, methods=["POST"])
    app.register_blueprint(api.blueprint(lambda now: usage.rows(door.ledger, now), clock, state))
    app.register_blueprint(
        evaluate.blueprint(door, clock, lambda: read_body(flask.request.environ, max_body))
    )
    app.add_url_rule("/metrics", "metrics", counters.response)
    errors_as_json(app, counters)
    return app


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

    def __call__(self) -> flask.Response:
        """Flask's view."""
        with self._counters.timed_push(), self._turns.turn():
            environ = flask.request.environ
            path = environ["PATH_INFO"]
            dialect = loki.dialect_of(environ.get("CONTENT_TYPE") or None, path)
            body = read_body(environ, self._max_body)
            judgement = self._gate.push(
                body,
                environ.get("HTTP_CONTENT_ENCODING", ""),
                now=self._clock(),
                dialect=dialect,
            )
            if judgement.body is None:
                judgement.commit()
                return flask.Response(status=204)
            return self._forward(judgement, path, environ)

    def _forward(
        self, judgement: gate.Judgement, path: str, environ: dict[str, str]
    ) -> flask.Response:
        headers = forwarded_headers(environ)
        if judgement.encoding:
            headers["Content-Encoding"] = judgement.encoding
        assert judgement.body is not None
        try:
            with self._counters.timed_upstream():
                reply = self._sender.send(path, judgement.body, headers)
        except BaseException:
            self._counters.upstream_answered("none")
            judgement.refund()
            raise
        self._counters.upstream_answered(str(reply.status))
        if is_stored(reply.status):
            judgement.commit(rejected=reply.status == 400)
        else:
            judgement.refund()
        return passed_on(reply)


def passed_on(reply: upstream.Reply) -> flask.Response:
    """Upstream's answer as the shipper sees it."""
    if 300 <= reply.status < 400:
        # Followed, a redirect would lead the shipper past its budget.
        raise Redirected(f"upstream answered {reply.status}: give its final URL to Sluice")
    response = flask.Response(reply.body, reply.status)
    if reply.content_type:
        response.headers["Content-Type"] = reply.content_type
    if reply.retry_after:
        response.headers["Retry-After"] = reply.retry_after
    return response


class Redirected(errors.SluiceError):
    """Upstream answered a push with a redirect."""

    status = 502


def read_body(environ: dict[str, object], limit: int) -> bytes:
    """The request's body.

    Raises:
        TooLarge: more than `limit` bytes; not one more than that was read.
    """
    declared = str(environ.get("CONTENT_LENGTH") or "")
    if declared.isdigit() and int(declared) > limit:
        raise errors.TooLarge(f"a body of {declared} bytes, at most {limit} are taken")
    body: bytes = environ["wsgi.input"].read(limit + 1)  # type: ignore[attr-defined]
    if len(body) > limit:
        raise errors.TooLarge(f"a body of more than {limit} bytes, at most {limit} are taken")
    return body


def forwarded_headers(environ: dict[str, str]) -> dict[str, str]:
    """The shipper's headers for upstream, and where the push came from."""
    headers = {
        name[5:].replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_") and name[5:] not in NOT_FORWARDED
    }
    headers["Content-Type"] = environ.get("CONTENT_TYPE", "")
    chain = [environ.get("HTTP_X_FORWARDED_FOR", ""), environ.get("REMOTE_ADDR", "")]
    headers["X-Forwarded-For"] = ", ".join(link.split(":")[0] for link in chain if link)
    return headers


def errors_as_json(app: flask.Flask, counters: metrics.Metrics) -> None:
    """Answer every error as {"error": ..., "status": ...}."""

    def refused(error: errors.SluiceError) -> flask.Response:
        counters.refused(error)
        return api.error_response(error.message, error.status)

    def unknown(error: werkzeug.exceptions.HTTPException) -> flask.Response:
        return api.error_response(
            f"{flask.request.method} {flask.request.path}: {error.description}", error.code or 500
        )

    def broken(error: Exception) -> flask.Response:
        counters.broken()
        log.exception("%s %s failed", flask.request.method, flask.request.path)
        return api.error_response(f"internal error: {type(error).__name__}", 500)

    app.register_error_handler(errors.SluiceError, refused)
    app.register_error_handler(werkzeug.exceptions.HTTPException, unknown)
    app.register_error_handler(Exception, broken)
