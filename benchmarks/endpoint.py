"""The endpoints that bench_http.py compares, under the server of agent/serve.py.

`endpoint.py agent PORT` serves the agent with an upstream that says 204 without I/O, and
`endpoint.py empty PORT` reads the body, no more.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import Any

import data

from sluice import Gate, logs, settings
from sluice.agent import app, serve, upstream

TEAMS = 1000


class NoUpstream:
    """Takes every push and does nothing."""

    def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> upstream.Reply:
        return upstream.Reply(204)


def agent() -> Any:
    return app.create_app(Gate(data.budgets(TEAMS)), NoUpstream()).intake


class Empty:
    """Takes a body and says 204, on the event loop."""

    loop = None

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        await protocol()
        protocol.response_empty(200 if scope.path == "/ready" else 204, [])

    def is_busy(self, _client: str) -> bool:
        return True

    def stop(self, _wait_s: float) -> bool:
        """Nothing is at work."""
        return True


class Service:
    """What serve() runs in the worker."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.start = make

    def give_up(self) -> None:
        """Nothing waits."""

    def stop(self) -> None:
        """Nothing to write down."""


def main() -> None:
    """Serve until killed."""
    make = {"agent": agent, "empty": Empty}[sys.argv[1]]
    log_config = logs.config("text", "warning")
    address = settings.Address("127.0.0.1", int(sys.argv[2]))
    serve.serve(Service(make), address, threads=20, log_config=log_config)


if __name__ == "__main__":
    main()
