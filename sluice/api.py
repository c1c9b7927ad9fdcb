"""The REST API that agent, controller and dashboard mount alike.

GET /ready, /api/health, /api/teams, /api/teams/{name}; errors are {"error": ..., "status": N}.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import flask
import werkzeug.exceptions

from sluice import errors, usage, window


@dataclass
class Status:
    """What a process says of itself, filled in by whoever runs it.

    Attributes:
        not_ready: why it is not ready, "" when it is; waits_for says so when asked.
        problems: what is wrong with budgets that somebody wrote, as JSON objects; more_problems
            finds some when asked.
        parts: further parts of /api/health, by name; each is called for its JSON.
        reloads: budgets read anew, by result: applied or refused.
        clock_steps: jumps of the wall clock by more than a minute.
    """

    not_ready: str = ""
    waits_for: Callable[[], str] = lambda: ""
    problems: list[dict[str, object]] = field(default_factory=list)
    more_problems: Callable[[], list[dict[str, object]]] = list
    parts: dict[str, Callable[[], object]] = field(default_factory=dict)
    reloads: dict[str, int] = field(default_factory=lambda: {"applied": 0, "refused": 0})
    clock_steps: int = 0


class Counters(Protocol):
    """Counts requests that were not done, for /metrics."""

    def refused(self, error: errors.SluiceError) -> None:
        """Count one that was refused."""

    def broken(self) -> None:
        """Count one that failed on a defect of ours."""


class NotFound(errors.SluiceError):
    """No such team."""

    status = 404


class Ambiguous(errors.SluiceError):
    """A team's name that budgets in several namespaces have."""

    status = 409


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
    rows: Callable[[float], list[usage.Row]], clock: Callable[[], float], status: Status
) -> flask.Blueprint:
    """The read-only part of the API.

    Args:
        rows: every team's row at a moment (epoch seconds).
        clock: epoch seconds.
    """
    routes = flask.Blueprint("api", __name__)

    @routes.get("/ready")
    def ready() -> flask.Response:
        if reason := status.not_ready or status.waits_for():
            raise errors.Unavailable(f"not ready: {reason}")
        return flask.Response("ready\n", mimetype="text/plain")

    @routes.get("/api/health")
    def health() -> flask.Response:
        problems = [*status.problems, *status.more_problems()]
        found: dict[str, object] = {
            "status": "degraded" if problems else "ok",
            "ready": not (status.not_ready or status.waits_for()),
            "problems": problems,
            "reloads": status.reloads,
            "clockSteps": status.clock_steps,
        }
        found |= {name: part() for name, part in status.parts.items()}
        return flask.jsonify(found)

    @routes.get("/api/teams")
    def teams() -> flask.Response:
        now = clock()
        found = [row.as_json() for row in rows(now)]
        return flask.jsonify({"time": window.iso(now), "teams": found})

    @routes.get("/api/teams/<name>")
    def team(name: str) -> flask.Response:
        namespace = flask.request.args.get("namespace")
        found = [
            row
            for row in rows(clock())
            if row.budget.name == name and namespace in (None, row.budget.namespace)
        ]
        if not found:
            where = f" in namespace {namespace!r}" if namespace else ""
            raise NotFound(f"no team {name!r}{where}")
        if len(found) > 1:
            names = ", ".join(sorted(row.budget.namespace for row in found))
            raise Ambiguous(
                f"{len(found)} teams are called {name!r}, in the namespaces {names}:"
                " choose one with ?namespace="
            )
        return flask.jsonify(found[0].as_json())

    return routes


def errors_as_json(app: flask.Flask, log: logging.Logger, counters: Counters) -> None:
    """Answer every error as {"error": ..., "status": ...}."""

    def refused(error: errors.SluiceError) -> flask.Response:
        counters.refused(error)
        return error_response(error.message, error.status)

    def unknown(error: werkzeug.exceptions.HTTPException) -> flask.Response:
        response = error_response(
            f"{flask.request.method} {flask.request.path}: {error.description}", error.code or 500
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
