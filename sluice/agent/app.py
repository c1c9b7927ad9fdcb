"""The agent's HTTP: pushes go straight to push.py, everything else is Flask's."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import flask
from prometheus_client.registry import Collector

from sluice import api, auth, gate, metrics, openapi, usage
from sluice.agent import evaluate, exchange, push, turnstile

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

log = logging.getLogger("sluice.agent")

MIB = 2**20


def create_app(
    door: gate.Gate,
    sender: exchange.Sender,
    *,
    max_body: int = 8 * MIB,
    max_in_flight: int = 14,
    clock: Callable[[], float] = time.time,
    status: api.Status | None = None,
    source: api.Source | None = None,
    is_node: bool = False,
    collectors: Iterable[Collector] = (),
    settled: metrics.SettledBytes | None = None,
    guard: auth.Auth = auth.NOBODY_IS_ASKED,
    evaluates: bool = False,
) -> flask.Flask:
    """The WSGI application of agent and `run`.

    Args:
        door: judges pushes.
        sender: takes what is left of them.
        max_body: bytes of a request's body, else 413.
        max_in_flight: pushes at work at a time, else 503.
        status: what /ready and /api/health say beside the gate's own state.
        source: what the API shows; without it the ledger's rows alone.
        is_node: other nodes count for the same budgets; a sum over all must be right.
        collectors: further series of /metrics.
        settled: counts what is sent upstream.
        guard: who may look.
        evaluates: answer /api/v1/evaluate, which spends budgets.
    """
    app = flask.Flask("sluice.agent", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    # Here it would be a redirect, which no shipper follows.
    app.url_map.merge_slashes = False
    turns = turnstile.Turnstile(max_in_flight)
    state = status or api.Status()
    counters = metrics.PushMetrics(
        door, clock, state, lambda: turns.inside, *collectors, settled=settled, is_node=is_node
    )
    handler = push.PushHandler(door, sender, counters, turns, max_body, clock)
    for path in push.PATHS:
        # So that Flask knows what else it may say of these paths.
        app.add_url_rule(path, path, lambda: handler, methods=["POST"])
    shown = source or api.Source(lambda now: usage.rows(door.ledger, now))
    document = openapi.document(takes_pushes=True)
    app.register_blueprint(api.blueprint(shown, clock, state, document))
    reader = call_reader(turns, min(max_body, evaluate.BODY_MAX))
    app.register_blueprint(
        evaluate.blueprint(door, clock, reader) if evaluates else evaluate.absent()
    )
    app.add_url_rule("/metrics", "metrics", counters.response)
    api.errors_as_json(app, log, counters)
    guard.guard(app)
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
