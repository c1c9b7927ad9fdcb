"""The REST API that agent, controller and dashboard mount alike.

GET /ready, /openapi.json, /api/health, /api/teams, /api/teams/{name} and its /history and /top,
/api/events; errors are {"error": ..., "status": N}. openapi.py describes it: change them together.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import Protocol

import flask
import werkzeug.exceptions

from sluice import errors, openapi, query, window
from sluice.source import Ambiguous as Ambiguous
from sluice.source import NotFound as NotFound
from sluice.source import Source as Source
from sluice.source import Status as Status

PLACES, PLACES_MAX = 10, 100
EVENTS, EVENTS_MAX = 100, 1000


class Counters(Protocol):
    """Counts requests that were not done, for /metrics."""

    def refused(self, error: errors.SluiceError) -> None:
        """Count one that was refused."""

    def broken(self) -> None:
        """Count one that failed on a defect of ours."""


def error_response(message: str, status: int) -> flask.Response:
    """An error as the API writes it."""
    response = flask.Response(error_body(message, status), status, mimetype="application/json")
    if retry_after(status):
        response.headers["Retry-After"] = retry_after(status)
    return response


def error_body(message: str, status: int) -> bytes:
    """An error's JSON."""
    return json.dumps({"error": message, "status": status}).encode() + b"\n"


def retry_after(status: int) -> str:
    """The seconds after which a request that was refused so may be sent again, or ""."""
    return "1" if status == 503 else ""


def blueprint(
    source: Source,
    clock: Callable[[], float],
    status: Status,
    document: Mapping[str, object] | None = None,
) -> flask.Blueprint:
    """The read-only part of the API.

    Args:
        clock: epoch seconds.
        document: what /openapi.json says; without it, openapi.document().
    """
    routes = flask.Blueprint("api", __name__)
    described = openapi.document() if document is None else document

    @routes.get("/ready")
    def ready() -> flask.Response:
        if reason := status.missing:
            raise errors.Unavailable(f"not ready: {reason}")
        return flask.Response("ready\n", mimetype="text/plain")

    @routes.get("/openapi.json")
    def openapi_json() -> flask.Response:
        return flask.jsonify(described)

    @routes.get("/api/health")
    def health() -> flask.Response:
        return flask.jsonify(status.as_json())

    @routes.get("/api/teams")
    def teams() -> flask.Response:
        asked()
        now = clock()
        found = [source.as_json(row) for row in source.rows(now)]
        return flask.jsonify({"time": window.iso(now), "teams": found})

    @routes.get("/api/teams/<name>")
    def team(name: str) -> flask.Response:
        namespace = asked("namespace").text("namespace")
        return flask.jsonify(source.as_json(source.team(name, namespace, clock())))

    @routes.get("/api/teams/<name>/history")
    def history(name: str) -> flask.Response:
        call = asked("namespace", "from", "to", "step")
        row = source.team(name, call.text("namespace"), clock())
        span = query.Span.of(call, row)
        points = source.past().history(row.budget.key, span.start, span.end, span.step_s)
        return flask.jsonify(
            {
                "name": row.budget.name,
                "namespace": row.budget.namespace,
                "from": window.iso(span.start),
                "to": window.iso(span.end),
                "stepSeconds": span.step_s,
                "points": [point.as_json() for point in points],
            }
        )

    @routes.get("/api/teams/<name>/top")
    def top(name: str) -> flask.Response:
        call = asked("namespace", "count")
        count = call.number("count", 1, PLACES_MAX) or PLACES
        row = source.team(name, call.text("namespace"), clock())
        since = math.floor(row.windows.start)
        namespaces, apps = source.past().top(row.budget.key, since, count)
        return flask.jsonify(
            {
                "name": row.budget.name,
                "namespace": row.budget.namespace,
                "since": window.iso(since),
                "namespaces": [place.as_json() for place in namespaces],
                "apps": [place.as_json() for place in apps],
            }
        )

    @routes.get("/api/events")
    def events() -> flask.Response:
        call = asked("namespace", "team", "count")
        count = call.number("count", 1, EVENTS_MAX) or EVENTS
        name, namespace = call.text("team"), call.text("namespace")
        if name is None and namespace is not None:
            raise errors.BadRequest("namespace: given without a team")
        key = None if name is None else source.team(name, namespace, clock()).budget.key
        found = source.past().events(key, count)
        return flask.jsonify({"events": [event.as_json() for event in found]})

    return routes


def asked(*known: str) -> query.Query:
    """The parameters of the request at hand, none but those that are known."""
    return query.Query(flask.request.args.items(multi=True), *known)


def errors_as_json(app: flask.Flask, log: logging.Logger, counters: Counters) -> None:
    """Answer every error as {"error": ..., "status": ...}."""

    def refused(error: errors.SluiceError) -> flask.Response:
        counters.refused(error)
        return error_response(error.message, error.status)

    def unknown(error: werkzeug.exceptions.HTTPException) -> flask.Response:
        text = error.description
        # Werkzeug's own text is about addresses typed into a browser.
        if isinstance(error, werkzeug.exceptions.NotFound) and text == type(error).description:
            text = "no such path; GET /openapi.json lists them"
        response = error_response(
            f"{flask.request.method} {flask.request.path}: {text}", error.code or 500
        )
        if isinstance(error, werkzeug.exceptions.MethodNotAllowed):
            response.headers["Allow"] = ", ".join(error.valid_methods or ())
        return response

    def broken(error: Exception) -> flask.Response:
        counters.broken()
        log.exception("%s %s failed", flask.request.method, flask.request.path)
        return error_response(f"internal error: {type(error).__name__}", 500)

    app.register_error_handler(errors.SluiceError, refused)
    app.register_error_handler(werkzeug.exceptions.HTTPException, unknown)
    app.register_error_handler(Exception, broken)
