"""The agent's HTTP: pushes go straight to push.py, everything else is Flask's."""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import flask
import werkzeug.exceptions

from sluice import api, errors, gate, metrics, usage
from sluice.agent import evaluate, push, turnstile

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

log = logging.getLogger("sluice.agent")

MIB = 2**20


def create_app(
    door: gate.Gate,
    sender: push.Sender,
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
    # Here it would be a redirect, which no shipper follows.
    app.url_map.merge_slashes = False
    turns = turnstile.Turnstile(max_in_flight)
    state = status or api.Status()
    counters = metrics.Metrics(door, clock, state, lambda: turns.inside)
    handler = push.PushHandler(door, sender, counters, turns, max_body, clock)
    for path in push.PATHS:
        # So that Flask knows what else it may say of these paths.
        app.add_url_rule(path, path, lambda: handler, methods=["POST"])
    app.register_blueprint(api.blueprint(lambda now: usage.rows(door.ledger, now), clock, state))
    app.register_blueprint(evaluate.blueprint(door, clock, call_reader(turns, max_body)))
    app.add_url_rule("/metrics", "metrics", counters.response)
    errors_as_json(app, counters)
    rest = app.wsgi_app

    def front(environ: "WSGIEnvironment", start_response: "StartResponse") -> "Iterable[bytes]":
        # A URL with a slash at its end and the path put together: seen often.
        environ["PATH_INFO"] = "/" + environ["PATH_INFO"].lstrip("/")
        is_push = environ["PATH_INFO"] in push.PATHS and environ["REQUEST_METHOD"] == "POST"
        return (handler if is_push else rest)(environ, start_response)

    app.wsgi_app = front  # type: ignore[method-assign]
    return app


def call_reader(turns: turnstile.Turnstile, max_body: int) -> Callable[[], bytes]:
    """Reads the body of a call of evaluate, where there is a place.

    Slow senders must not take the threads that are spared for probes, nor more than half of what
    pushes need. But a house full of pushes that wait for upstream is no reason to refuse: one
    place is kept for calls.
    """
    calls = turnstile.Turnstile(max(1, turns.places // 2))
    kept = turnstile.Turnstile(1)

    def read() -> bytes:
        with calls, turns if turns.inside < turns.places else kept:
            return push.read_body(flask.request.environ, max_body)

    return read


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
