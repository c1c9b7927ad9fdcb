"""What the agent serves: pushes go straight to push.py, everything else is Flask's."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import flask
import werkzeug.exceptions
from prometheus_client.registry import Collector

from sluice import api, auth, errors, gate, metrics, openapi, usage
from sluice.agent import evaluate, exchange, intake, places, push

log = logging.getLogger("sluice.agent")

MIB = 2**20
# Paths of Loki that Sluice does not serve.
OF_LOKI = ("/otlp/<path:rest>", "/loki/<path:rest>", "/api/prom/<path:rest>")


METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]


class NotServed(errors.SluiceError):
    """A path of Loki's that Sluice does not serve; the message says who does."""

    status = 404


@dataclass(frozen=True, slots=True)
class Application:
    """What create_app() makes.

    Attributes:
        intake: what the server serves; it asks the other two.
        pushes: answers pushes.
        site: answers everything else.
    """

    intake: intake.Intake
    pushes: push.PushHandler
    site: flask.Flask


def create_app(
    door: gate.Gate,
    sender: exchange.Sender,
    *,
    max_body: int = 64 * MIB,
    max_in_flight: int = 14,
    threads: int = 16,
    clock: Callable[[], float] = time.time,
    status: api.Status | None = None,
    source: api.Source | None = None,
    is_node: bool = False,
    collectors: Iterable[Collector] = (),
    settled: metrics.SettledBytes | None = None,
    guard: auth.Auth = auth.NOBODY_IS_ASKED,
    evaluates: bool = False,
    upstream_url: str = "",
    port: int = 0,
) -> Application:
    """The application of agent and `run`.

    Args:
        door: judges pushes.
        sender: takes what is left of them.
        max_body: bytes of a request's body, else 413.
        max_in_flight: pushes at work at a time, else 503.
        threads: requests at work at a time, pushes among them.
        status: what /ready and /api/health say beside the gate's own state.
        source: what the API shows; without it the ledger's rows alone.
        is_node: other nodes count for the same budgets; a sum over all must be right.
        collectors: further series of /metrics.
        settled: counts what is sent upstream.
        guard: who may look.
        evaluates: answer /api/v1/evaluate, which spends budgets.
        upstream_url: where those who want to query are sent.
        port: where it is served.
    """
    app = flask.Flask("sluice.agent", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    # Here it would be a redirect, which no shipper follows.
    app.url_map.merge_slashes = False
    # Of calls that spend budgets; no other body is kept.
    app.config["MAX_CONTENT_LENGTH"] = min(max_body, evaluate.BODY_MAX)
    pushes = places.Places(max_in_flight, wait_s=intake.PUSH_WAIT_S)
    state = status or api.Status()
    counters = metrics.PushMetrics(
        door,
        clock,
        state,
        lambda: pushes.inside,
        lambda: front.receiving,
        *collectors,
        settled=settled,
        is_node=is_node,
    )
    handler = push.PushHandler(door, sender, counters, clock, pushes.note_progress)
    shown = source or api.Source(lambda now: usage.rows(door.ledger, now))
    document = openapi.document(takes_pushes=True)
    app.register_blueprint(api.blueprint(shown, clock, state, document))
    calls = evaluate.blueprint(door, clock, lambda: flask.request.get_data())
    app.register_blueprint(calls if evaluates else evaluate.absent())
    app.add_url_rule("/metrics", "metrics", counters.response)
    add_paths_of_loki(app, upstream_url)
    api.errors_as_json(app, log, counters)
    guard.guard(app)
    front = intake.Intake(
        handler,
        app,
        counters,
        pushes,
        door.memory,
        max_body=max_body,
        spare=intake.spare_places(threads, max_in_flight),
        port=port,
    )
    return Application(front, handler, app)


def add_paths_of_loki(app: flask.Flask, upstream_url: str) -> None:
    """Have the site say what it does not do, and who does."""
    where = f" at {upstream_url}" if upstream_url else ""

    def not_served(rest: str = "") -> flask.Response:
        if flask.request.path in push.PATHS:
            # As Loki answers, OPTIONS included.
            raise werkzeug.exceptions.MethodNotAllowed(valid_methods=["POST"])
        raise NotServed(
            f"{flask.request.method} {flask.request.path}: Sluice takes pushes,"
            f" POST {push.PATHS[0]}; query Loki{where}"
        )

    for rule in OF_LOKI:
        app.add_url_rule(rule, rule, not_served, methods=METHODS, provide_automatic_options=False)
