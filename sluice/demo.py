"""`sluice demo`: a real `sluice run`, a sink as its upstream, shippers, and a table to watch.

Everything but the table runs as it would in earnest: `sluice run` is a process of its own that
reads budgets from files; shippers push Loki's JSON to it over HTTP; the sink answers 204.
"""

import contextlib
import http.client
import http.server
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rich.console
import rich.live
import rich.table

from sluice import overview, settings
from sluice.port import CannotStart, check_port

KIB = 1024
START_S = 20.0
PUSH_EVERY_S = 0.25
# What a minute says little of; there is more to see of what is dropped.
NOT_SHOWN = ("namespace", "month %", "rate", "spent in")
# Bytes a second and budget a day of each team: one stays within its budget, the others reach
# the throttle band after 8, 20 and 32 seconds and are over after 12, 30 and 48.
TEAMS = {
    "checkout": (6 * KIB, 4096 * KIB),
    "payments": (18 * KIB, 720 * KIB),
    "search": (30 * KIB, 750 * KIB),
    "batch-jobs": (48 * KIB, 480 * KIB),
}


def manifests() -> str:
    """The example budgets: one per team, named like the namespace it governs."""
    return "---\n".join(
        "apiVersion: tco.io/v1\nkind: TeamBudget\n"
        f"metadata: {{name: {name}, namespace: default}}\n"
        f"spec: {{dailyLimit: {limit}, monthlyLimit: {30 * limit}, namespaces: [{name}]}}\n"
        for name, (_, limit) in TEAMS.items()
    )


class Sink(http.server.BaseHTTPRequestHandler):
    """An upstream that takes everything and keeps nothing."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take a push."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def sink() -> Iterator[str]:
    """Run a sink; gives its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def push_of(team: str, size: int, rng: random.Random) -> bytes:
    """A push of about `size` bytes of log lines, as Vector or Fluent Bit would write it."""
    values = []
    while size > 0:
        line = json.dumps(
            {
                "level": rng.choice(["info", "info", "info", "warn", "error"]),
                "msg": f"{rng.choice(['GET', 'POST'])} /{team}/{rng.randrange(10_000)}",
                "status": rng.choice([200, 200, 200, 404, 500]),
                "trace": f"{rng.getrandbits(128):032x}",
            }
        )
        values.append([str(time.time_ns()), line])
        size -= len(line)
    labels = {"namespace": team, "app": f"{team}-{rng.randrange(3)}"}
    return json.dumps({"streams": [{"stream": labels, "values": values}]}).encode()


def ship(team: str, rate: int, host: str, port: int, stopping: threading.Event) -> None:
    """Push `rate` bytes a second until told to stop, as one shipper does: one at a time."""
    rng = random.Random(team)
    connection = http.client.HTTPConnection(host, port, timeout=10)
    while not stopping.wait(PUSH_EVERY_S):
        body = push_of(team, int(rate * PUSH_EVERY_S), rng)
        try:
            connection.request(
                "POST", "/loki/api/v1/push", body, {"Content-Type": "application/json"}
            )
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            connection.close()


def fetched(host: str, port: int, path: str) -> Any:
    """The JSON at `path`, or None if there is no answer."""
    try:
        connection = http.client.HTTPConnection(host, port, timeout=2)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
    except (OSError, ValueError, http.client.HTTPException):
        return None


def drawn(found: Any, urls: str, left: str, console: rich.console.Console) -> rich.table.Table:
    """The live table, of an answer of /api/teams."""
    lines = overview.ordered(overview.read(found), "name")
    table = overview.table(
        lines,
        console.width,
        ascii_only=console.options.ascii_only,
        columns=[one for one in overview.COLUMNS if one.title not in NOT_SHOWN],
    )
    table.title = "Sluice: log budgets, enforced"
    table.caption = f"{urls}\n{left}"
    return table


@contextlib.contextmanager
def sluice_run(
    options: settings.Demo, folder: Path, upstream: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `sluice run` on the example budgets; stopped gracefully at the end."""
    budgets = folder / "budgets.yaml"
    budgets.write_text(manifests())
    state = options.state_dir or folder / "state"
    command = [sys.executable, "-m", "sluice", "run", "--budgets", str(budgets)]
    command += ["--upstream", upstream, "--listen", str(options.listen)]
    command += ["--dashboard-listen", str(options.dashboard_listen)]
    command += ["--state-dir", str(state), "--log-level", "warning"]
    # What is set for a `run` in earnest, such as whom to notify, is not for this one.
    environment = {n: v for n, v in os.environ.items() if not n.startswith("SLUICE_")}
    # Its sink is on this machine, where no proxy leads to.
    environment |= {"NO_PROXY": "*", "no_proxy": "*"}
    # A group of its own: Ctrl-C is for the demo, which then stops it in order.
    process = subprocess.Popen(command, start_new_session=True, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=15)


def wait_until_ready(process: subprocess.Popen[bytes], host: str, port: int) -> int:
    """Wait for /api/teams; returns 0, or the exit code if the process ended instead."""
    until = time.monotonic() + START_S
    while fetched(host, port, "/api/teams") is None:
        if process.poll() is not None:
            return process.returncode
        if time.monotonic() > until:
            print(f"sluice demo: not ready after {START_S:g} s", file=sys.stderr)
            return 1
        time.sleep(0.05)
    return 0


def watch(
    options: settings.Demo, process: subprocess.Popen[bytes], stopping: threading.Event
) -> int:
    """Show the table until time is up or Ctrl-C; returns the exit code, 1 if the process ended."""
    host, port = options.listen.host, options.listen.port
    console = rich.console.Console()
    left = "Ctrl-C ends it"
    url = f"http://{options.listen}"
    urls = f"open http://{options.dashboard_listen}/\n{url}/api/teams  {url}/metrics"
    began = time.monotonic()
    with rich.live.Live(console=console, refresh_per_second=4, transient=False) as live:
        for tick in itertools.count():
            if options.seconds:
                rest = options.seconds - (time.monotonic() - began)
                left = f"{max(0, rest):.0f} s to go; {left}"
                if rest <= 0:
                    return 0
            if process.poll() is not None:
                break
            found = fetched(host, port, "/api/teams")
            if found is not None:
                table = drawn(found, urls, left, console)
                live.update(table)
                # Where there is no terminal to redraw, a table every ten seconds will do.
                if not console.is_terminal and tick % 20 == 0:
                    console.print(table)
            left = "Ctrl-C ends it"
            if stopping.wait(0.5):
                return 0
    print(f"sluice demo: its sluice run ended, with {process.returncode}", file=sys.stderr)
    return 1


def demo(options: settings.Demo) -> int:
    """Run the demo; returns the exit code."""
    host, port = options.listen.host, options.listen.port
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    try:
        # Whoever has the port would be taken for the demo's own, and get its made-up logs.
        check_port(host, port, wait=0)
    except CannotStart as error:
        print(f"sluice demo: {error.message}", file=sys.stderr)
        return 2
    with (
        tempfile.TemporaryDirectory(prefix="sluice-demo-") as folder,
        sink() as upstream,
        sluice_run(options, Path(folder), upstream) as process,
    ):
        code = wait_until_ready(process, host, port)
        if code:
            return code
        shippers = [
            threading.Thread(target=ship, args=(team, rate, host, port, stopping), daemon=True)
            for team, (rate, _) in TEAMS.items()
        ]
        for shipper in shippers:
            shipper.start()
        code = watch(options, process, stopping)
        stopping.set()
        for shipper in shippers:
            shipper.join(timeout=10)
    return code
