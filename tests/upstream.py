"""An upstream for tests: takes pushes like Loki, remembers them, and misbehaves on demand.

    python tests/upstream.py --port 0 [--record DIR]

It prints `listening on PORT` and serves until it is killed. Any POST but these is a push:

    POST /control    {"mode": MODE, "keep": true, "reset": false}, every part optional
    GET  /received   ?tenant=, ?path=; every push with headers, status and body (base64)
    GET  /count      {"requests", "acknowledged", "bytes", "waiting"}

MODE is `ok` (204), `status:NNN`, `slow:SECONDS` (then 204), `hang` (no answer until the mode
changes), `close` (no answer, connection closed) or `drip` (a 200 whose body never ends).
"""

import argparse
import base64
import collections
import json
import os
import socketserver
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import shippers

# What Loki and Sluice take for stored; 260 is a block, though it looks like success.
ACKNOWLEDGED = (200, 204)
DRIP_S = 0.2


class State:
    """What all connections share. Every method may be called by any thread."""

    def __init__(self, record: Path | None) -> None:
        self.mode = "ok"
        self.changed = threading.Condition()
        self.keep = True
        self.received: list[dict[str, Any]] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.record = None
        if record is not None:
            record.mkdir(parents=True, exist_ok=True)
            flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
            self.record = os.open(record / "acknowledged.jsonl", flags, 0o644)

    def control(self, order: dict[str, Any]) -> None:
        with self.changed:
            self.keep = order.get("keep", self.keep)
            self.mode = order.get("mode", self.mode)
            if order.get("reset"):
                self.received.clear()
                self.counts.clear()
            self.changed.notify_all()

    def wait(self, seconds: float | None = None) -> None:
        """Wait for so long, or until the mode changes."""
        with self.changed:
            mode = self.mode
            self.counts["waiting"] += 1
            self.changed.wait_for(lambda: self.mode != mode, seconds)
            self.counts["waiting"] -= 1

    def book(self, push: dict[str, Any], body: bytes, status: int) -> None:
        """Note a push and what will be answered. On the disk first: the answer may be cut off."""
        taken = status in ACKNOWLEDGED
        if taken and self.record is not None:
            line = json.dumps(
                {"path": push["path"], "tenant": push["tenant"]} | summary(push, body)
            )
            os.write(self.record, line.encode() + b"\n")
        with self.changed:
            self.counts["requests"] += 1
            self.counts["acknowledged"] += taken
            self.counts["bytes"] += len(body)
            if self.keep:
                encoded = base64.b64encode(body).decode()
                self.received.append({**push, "status": status, "body": encoded})


def summary(push: dict[str, Any], body: bytes) -> dict[str, Any]:
    """Entries and billed bytes by namespace; the error if the body is not what it should be."""
    by_namespace: dict[str, list[int]] = {}
    try:
        streams = shippers.decode(body, push["headers"], push["path"])
    except Exception as error:  # whatever the decoders raise
        return {"error": repr(error)}
    for stream in streams:
        sums = by_namespace.setdefault(stream.labels.get("namespace", ""), [0, 0])
        sums[0] += len(stream.entries)
        sums[1] += sum(entry.billed for entry in stream.entries)
    return {"namespaces": by_namespace}


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # Answers leave in one piece.
    wbufsize = -1
    state: ClassVar[State]

    def log_message(self, *_: object) -> None:
        """Say nothing: a test counts by GET /count."""

    def reply(self, status: int, body: bytes = b"", kind: str = "application/json") -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    def do_GET(self) -> None:
        asked = urllib.parse.urlsplit(self.path)
        wanted = dict(urllib.parse.parse_qsl(asked.query))
        state = self.state
        with state.changed:
            if asked.path == "/received":
                said: Any = [
                    push
                    for push in state.received
                    if all(push[name] == wanted[name] for name in wanted)
                ]
            elif asked.path == "/count":
                said = {
                    name: state.counts[name]
                    for name in ("requests", "acknowledged", "bytes", "waiting")
                }
            elif asked.path == "/ready":
                said = "ready"
            else:
                return self.reply(404, b'"no such page"')
        return self.reply(200, json.dumps(said).encode())

    def do_POST(self) -> None:
        body = self.read_body()
        if self.path == "/control":
            self.state.control(json.loads(body))
            return self.reply(204)
        headers = dict(self.headers.items())
        push = {
            "tenant": self.headers.get("X-Scope-OrgID", ""),
            "path": urllib.parse.urlsplit(self.path).path,
            "target": self.path,
            "headers": headers,
            "lines": self.headers.items(),
        }
        return self.answer(push, body)

    def answer(self, push: dict[str, Any], body: bytes) -> None:
        mode, _, detail = self.state.mode.partition(":")
        if mode == "slow":
            self.state.wait(float(detail))
            mode = "ok"
        if mode == "ok":
            self.state.book(push, body, 204)
            self.reply(204)
        elif mode == "status":
            status = int(detail)
            self.state.book(push, body, status)
            self.reply(status, f"upstream says {status}".encode(), "text/plain")
        elif mode == "drip":
            self.state.book(push, body, 0)
            self.drip()
        else:
            self.state.book(push, body, 0)
            if mode == "hang":
                self.state.wait()
            self.close_connection = True

    def drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.close_connection = True
        while self.state.mode == "drip":
            self.wfile.write(b".")
            self.wfile.flush()
            time.sleep(DRIP_S)

    def read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            size = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(size)
            if len(body) < size:
                raise ConnectionError(f"the body ends after {len(body)} of {size} bytes")
            return body
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            # The other side went away, which is what some tests are about.
            self.close_connection = True

    def finish(self) -> None:
        try:
            super().finish()
        except ConnectionError:
            self.close_connection = True


class Server(ThreadingHTTPServer):
    """A thread per connection; a test opens hundreds at once."""

    daemon_threads = True
    request_queue_size = 1024

    def server_bind(self) -> None:
        """Bind, without the reverse look-up of the name that HTTPServer does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", type=Path, help="append what was acknowledged to a file here")
    chosen = parser.parse_args()
    Handler.state = State(chosen.record)
    server = Server(("127.0.0.1", chosen.port), Handler)
    print(f"listening on {server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
