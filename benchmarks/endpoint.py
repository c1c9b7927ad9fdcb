"""The endpoints that bench_http.py compares, under the server of agent/serve.py.

`endpoint.py agent PORT` serves the agent with an upstream that says 204 without I/O, and
`endpoint.py empty PORT` a Flask route that reads the body, no more.
"""

import sys
from collections.abc import Callable, Mapping

import data
import flask

from sluice import Gate, logs, settings
from sluice.agent import app, serve, upstream

TEAMS = 1000
THREADS = 16


class NoUpstream:
    """Takes every push and does nothing."""

    def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> upstream.Reply:
        return upstream.Reply(204)


def agent() -> flask.Flask:
    return app.create_app(Gate(data.budgets(TEAMS)), NoUpstream())


def empty() -> flask.Flask:
    made = flask.Flask("empty", static_folder=None)

    @made.post(upstream.PUSH_PATH)
    def push() -> flask.Response:
        flask.request.environ["wsgi.input"].read()
        return flask.Response(status=204)

    @made.get("/ready")
    def ready() -> str:
        return "ready"

    return made


class Service:
    """What serve() runs in the worker."""

    def __init__(self, make: Callable[[], flask.Flask]) -> None:
        self.start = make

    def stop(self) -> None:
        """Nothing to write down."""


def main() -> None:
    """Serve until killed."""
    make = {"agent": agent, "empty": empty}[sys.argv[1]]
    log_config = logs.config("text", "warning")
    address = settings.Address("127.0.0.1", int(sys.argv[2]))
    serve.serve(Service(make), address, threads=THREADS, log_config=log_config)


if __name__ == "__main__":
    main()
