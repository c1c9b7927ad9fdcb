"""Real processes for tests: Sluice itself, and an upstream that misbehaves on demand.

Each one runs on loopback ports of its own, writes its output to a file, and shows the end of it
when it does not come up. Waiting is for a condition with a deadline, never for a time.
"""

import base64
import contextlib
import http.client
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families
from shippers import PUSH_PATH, Push

TESTS = Path(__file__).parent
READY_S = 60.0
STOP_S = 15.0

# What a request raises when there is no answer, or half of one.
NO_ANSWER = (OSError, http.client.HTTPException)

handed_out: set[int] = set()
PORTS, PORT_MIN = random.SystemRandom(), 12_000


def free_port() -> int:
    """A loopback port that nobody listens on, and that no earlier call gave away.

    Below those that the kernel gives to connections: one of these may have it before the server
    for which it was asked. Above those that a browser refuses to open.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        # Not the generator that tests seed: they would all begin with the same one.
        port = PORTS.randrange(PORT_MIN, first) if first > 2 * PORT_MIN else 0
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            port = probe.getsockname()[1]
            if port not in handed_out:
                handed_out.add(port)
                return port


def ask_once(
    address: tuple[str, int], path: str, timeout_s: float, source: str = "127.0.0.1"
) -> int:
    """The status of a GET over a new connection from `source`; raises NO_ANSWER."""
    connection = http.client.HTTPConnection(*address, timeout=timeout_s, source_address=(source, 0))
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status


def wait_until(holds: Callable[[], Any], what: str, timeout_s: float = 20.0) -> Any:
    """Return the first true value of `holds()`; AssertionError when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = holds()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {timeout_s:g} s: {what}")
        time.sleep(0.02)


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    text: str
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Server:
    """A server process of a test, and a client for it."""

    name = "server"
    ready_path = "/ready"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.client = threading.local()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def launch(self) -> None:
        """Start the process and return at once."""
        assert self.process is None, f"{self.name} runs already"
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command(),
                env=self.environment(),
                cwd=TESTS.parent,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                # A group of its own: a test kills it whole, and Ctrl-C reaches pytest only.
                start_new_session=True,
            )

    def start(self, ready_s: float = READY_S) -> Self:
        """Start the process and wait until it answers its readiness probe with 200."""
        self.launch()
        try:
            wait_until(self.is_ready, f"{self.name} is ready", ready_s)
        except AssertionError as error:
            self.kill()
            raise AssertionError(f"{error}\n{self.tail()}") from None
        return self

    def is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with exit code {self.process.returncode}")
        with contextlib.suppress(*NO_ANSWER):
            return self.get(self.ready_path, timeout=2).status == 200
        return False

    def tail(self, lines: int = 30) -> str:
        """The end of what the process wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Wait for the end of the process and return its exit code."""
        assert self.process is not None
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            tail = self.tail()
            self.kill()
            raise AssertionError(f"{self.name} did not end in {timeout_s:g} s\n{tail}") from None
        self.close()
        self.process = None
        return code

    def stop(self, timeout_s: float = STOP_S) -> int:
        """Ask the process to end (SIGTERM) and return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self) -> None:
        """End the whole process group at once, whatever state it is in."""
        if self.process is None:
            return
        family = self.family()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.close()
        psutil.wait_procs(family, timeout=STOP_S)
        self.process = None

    def family(self) -> list[psutil.Process]:
        """The process and all its descendants."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            head = psutil.Process(self.process.pid)
            return [head, *head.children(recursive=True)]
        return []

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = 30,
        fields: Mapping[str, str] | None = None,
    ) -> Reply:
        """Ask once, over a connection that each thread keeps; raises NO_ANSWER if none comes.

        Nothing is sent twice: a test counts what it sent. `fields` become the query string.
        """
        connection = self.connection(timeout)
        query = f"?{urllib.parse.urlencode(fields)}" if fields else ""
        try:
            # A server may answer, and hang up, before it has heard all.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path + query, body, dict(headers or {}))
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except BaseException:
            connection.close()
            raise
        return Reply(answer.status, text, dict(answer.getheaders()))

    def connection(self, timeout: float) -> http.client.HTTPConnection:
        """The calling thread's connection: the one it has, unless the server has closed it."""
        held: http.client.HTTPConnection | None = getattr(self.client, "held", None)
        if held is None or held.port != self.port:
            held = self.client.held = self.new_connection()
        # Readable before anything was asked: that is the end of the connection.
        if held.sock is not None and select.select([held.sock], [], [], 0)[0]:
            held.close()
        held.timeout = timeout
        if held.sock is not None:
            held.sock.settimeout(timeout)
        return held

    def new_connection(self) -> http.client.HTTPConnection:
        """A connection to the server, not opened yet."""
        return http.client.HTTPConnection("127.0.0.1", self.port)

    def close(self) -> None:
        """Close the calling thread's connection."""
        held = getattr(self.client, "held", None)
        if held is not None:
            held.close()

    def get(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = 30,
        fields: Mapping[str, str] | None = None,
    ) -> Reply:
        return self.request("GET", path, None, headers, timeout=timeout, fields=fields)

    def push(
        self,
        body: bytes,
        headers: Mapping[str, str],
        tenant: str | None = None,
        path: str = PUSH_PATH,
        *,
        timeout: float = 30,
    ) -> Reply:
        """Push a body as a shipper does; the tenant goes into its header."""
        tenant_header = {"X-Scope-OrgID": tenant} if tenant is not None else {}
        return self.request("POST", path, body, {**headers, **tenant_header}, timeout=timeout)

    def send(self, push: Push, tenant: str | None = None, *, timeout: float = 30) -> Reply:
        return self.push(push.body, push.headers, tenant, push.path, timeout=timeout)

    def metrics(self) -> list[Any]:
        """All samples of /metrics, with `name`, `labels` and `value`."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        return [sample for family in families for sample in family.samples]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that carry these labels; 0 if there are none."""
        return sum(
            sample.value
            for sample in self.metrics()
            if sample.name == name
            and all(sample.labels.get(label) == value for label, value in labels.items())
        )


class Subcommand(Server):
    """A subcommand of `sluice` that serves the API; may be started again on the same port."""

    def __init__(
        self, folder: Path, *, args: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(folder)
        self.args = list(args)
        self.env = dict(env or {})
        self.port = free_port()

    @staticmethod
    def program() -> list[str]:
        """What to run: the module, or what runs it while coverage measures this process too."""
        measuring = "COVERAGE_PROCESS_CONFIG" in os.environ
        return [str(TESTS / "measured.py")] if measuring else ["-m", "sluice"]

    def environment(self) -> dict[str, str]:
        # The settings of whoever runs the tests are not the tests'.
        theirs = {
            n: v
            for n, v in os.environ.items()
            if not (n.startswith("SLUICE_") or n.lower().endswith("_proxy"))
        }
        path = os.pathsep.join(filter(None, [str(TESTS.parent), os.environ.get("PYTHONPATH")]))
        return {**theirs, "PYTHONPATH": path, **self.env}

    def teams(self) -> dict[str, Any]:
        """The teams of /api/teams by name."""
        return {team["name"]: team for team in self.get("/api/teams").json["teams"]}

    def counts(self, team: str) -> dict[str, Any]:
        counts: dict[str, Any] = self.teams()[team]["counts"]
        return counts

    def worker(self) -> psutil.Process:
        """The worker process, of which there is one."""
        workers = [p for p in self.family()[1:] if "resource_tracker" not in " ".join(p.cmdline())]
        assert len(workers) == 1, workers
        return workers[0]

    def kill_one(self, who: str) -> None:
        """Kill the `supervisor`, the `worker` or the whole `group`, and wait until all are gone."""
        assert self.process is not None
        if who == "worker":
            self.worker().kill()
        elif who == "supervisor":
            family = self.family()
            self.process.kill()
            self.process.wait()
            # The worker is to follow by itself.
            _, alive = psutil.wait_procs(family, timeout=STOP_S)
            assert not alive, f"outlived the supervisor: {alive}"
        self.kill()


class Sluice(Subcommand):
    """`sluice run` as a user runs it; may be started again on the same ports and state."""

    name = "sluice"

    def __init__(
        self,
        folder: Path,
        budgets: Path,
        upstream: str,
        *,
        state_dir: Path | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder, args=args, env=env)
        self.budgets = budgets
        self.upstream = upstream
        self.state_dir = state_dir or folder / "state"
        self.dashboard_port = free_port()

    @property
    def dashboard_url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def command(self) -> list[str]:
        return [
            *(sys.executable, *self.program(), "run"),
            *("--budgets", str(self.budgets)),
            *("--upstream", self.upstream),
            *("--listen", f"127.0.0.1:{self.port}"),
            *("--dashboard-listen", f"127.0.0.1:{self.dashboard_port}"),
            *("--state-dir", str(self.state_dir)),
            *self.args,
        ]


class Unmeasured(Sluice):
    """Sluice without coverage, which takes CPU and memory that are not Sluice's."""

    @staticmethod
    def program() -> list[str]:
        return ["-m", "sluice"]

    def environment(self) -> dict[str, str]:
        theirs = super().environment()
        return {n: v for n, v in theirs.items() if not n.startswith("COVERAGE_PROCESS")}


class Upstream(Server):
    """tests/upstream.py in another process."""

    name = "upstream"

    def __init__(self, folder: Path, *, record: bool = False) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.record = folder / "record" if record else None

    def command(self) -> list[str]:
        record = ["--record", str(self.record)] if self.record else []
        return [sys.executable, str(TESTS / "upstream.py"), "--port", str(self.port), *record]

    def environment(self) -> dict[str, str]:
        # Not measured: it is no part of Sluice, and slower if it is.
        return {n: v for n, v in os.environ.items() if not n.startswith("COVERAGE_PROCESS")}

    def control(self, mode: str | None = None, **more: Any) -> None:
        """Change the behaviour; upstream.py lists the modes."""
        order = more if mode is None else {"mode": mode, **more}
        reply = self.request("POST", "/control", json.dumps(order).encode())
        assert reply.status == 204, reply

    def received(self, **wanted: str) -> list[dict[str, Any]]:
        """What arrived, in order; `body` as bytes. Narrowed by `tenant` and `path`."""
        pushes: list[dict[str, Any]] = self.get("/received", fields=wanted).json
        return [{**push, "body": base64.b64decode(push["body"])} for push in pushes]

    def count(self) -> dict[str, int]:
        counts: dict[str, int] = self.get("/count").json
        return counts

    def acknowledged(self) -> list[dict[str, Any]]:
        """The record of acknowledged pushes: entries and billed bytes by namespace."""
        assert self.record is not None
        file = self.record / "acknowledged.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()]


def budget(
    name: str,
    daily_limit: int | str,
    *,
    namespace: str | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A TeamBudget manifest; its namespace is its name unless another is given."""
    return {
        "apiVersion": "tco.io/v1",
        "kind": "TeamBudget",
        "metadata": {"name": name, "namespace": namespace or name},
        "spec": {"dailyLimit": daily_limit, **spec},
    }


def write_budgets(path: Path, budgets: Sequence[Mapping[str, Any]]) -> Path:
    """Write the manifests to `path` by rename, as a careful operator does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(yaml.safe_dump_all(budgets))
    part.rename(path)
    return path


@contextlib.contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Start the servers in turn; whatever still runs at the end is killed."""
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in reversed(servers):
            server.kill()
