"""A `sluice run` under attack: its probes, a neighbour's pushes, its memory and its books.

Attackers come from 127.0.0.1, the neighbour from 127.0.0.2: they are two peers, as two pods are.
"""

import contextlib
import http.client
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psutil
import shippers
from harness import NO_ANSWER, Sluice, Upstream, ask_once, wait_until
from shippers import Entry, Push, Stream

NEIGHBOUR = "127.0.0.2"
PROBES = ("/ready", "/api/health")
PROBE_EVERY_S, PUSH_EVERY_S, LOOK_EVERY_S = 0.1, 0.05, 0.05
# A probe that takes longer has failed where it matters: Kubernetes waits for 3 s.
PROBE_S = 2.0
# The longest time without a push of the neighbour's that was taken.
GAP_S = 2.5
MEMORY_MIB = 400
MIB = 2**20


def neighbours_push(number: int) -> Push:
    """One line, other than all before, of the team `good`."""
    line = f"line {number} ".ljust(200, ".")
    return shippers.vector_json([Stream({"namespace": "good"}, [Entry(number + 1, line)])])


@dataclass
class Watch:
    """What was seen during a siege."""

    server: Sluice
    stopping: threading.Event = field(default_factory=threading.Event)
    probes: list[tuple[str, object, float]] = field(default_factory=list)
    pushes: list[tuple[float, int]] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)

    def probe(self) -> None:
        """Ask the probes, each time over a connection of its own."""
        while not self.stopping.wait(PROBE_EVERY_S):
            for path in PROBES:
                began = time.monotonic()
                status: object
                try:
                    status = ask_once(("127.0.0.1", self.server.port), path, PROBE_S, NEIGHBOUR)
                except NO_ANSWER as error:
                    status = repr(error)
                self.probes.append((path, status, time.monotonic() - began))

    def push(self) -> None:
        """Push one line after another over a connection that is kept, as a shipper does."""
        connection, number = None, 0
        while not self.stopping.wait(PUSH_EVERY_S):
            number += 1
            push = neighbours_push(number)
            if connection is None:
                connection = http.client.HTTPConnection(
                    "127.0.0.1", self.server.port, timeout=20, source_address=(NEIGHBOUR, 0)
                )
            try:
                connection.request("POST", push.path, push.body, dict(push.headers))
                answer = connection.getresponse()
                answer.read()
                self.pushes.append((time.monotonic(), answer.status))
            except NO_ANSWER:
                self.pushes.append((time.monotonic(), 0))
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    def look(self) -> None:
        """Note the worker's resident memory."""
        worker = self.server.worker()
        while not self.stopping.wait(LOOK_EVERY_S):
            with contextlib.suppress(psutil.NoSuchProcess):
                self.resident.append(worker.memory_info().rss)

    def longest_gap_s(self, began: float, ended: float) -> float:
        """The longest time in which no push of the neighbour's was taken."""
        taken = [began, *(at for at, status in self.pushes if status == 204), ended]
        return max(later - earlier for earlier, later in itertools.pairwise(taken))

    def __str__(self) -> str:
        statuses = sorted({status for _, status in self.pushes})
        counts = {one: sum(status == one for _, status in self.pushes) for one in statuses}
        return (
            f"{len(self.probes)} probes, the slowest"
            f" {max(took for _, _, took in self.probes) * 1000:.0f} ms; pushes {counts};"
            f" resident at most {max(self.resident) / MIB:.0f} MiB"
        )


@contextlib.contextmanager
def siege(server: Sluice, upstream: Upstream) -> Iterator[Watch]:
    """Watch the server while an attack goes on inside; afterwards see what it has cost.

    Raises:
        AssertionError: a probe was late, the neighbour's pushes stood still, memory grew over the
            bound, or the books are not what upstream acknowledged.
    """
    watch = Watch(server)
    threads = [threading.Thread(target=one) for one in (watch.probe, watch.push, watch.look)]
    for thread in threads:
        thread.start()
    wait_until(lambda: any(status == 204 for _, status in watch.pushes), "the neighbour is served")
    began = time.monotonic()
    try:
        yield watch
    finally:
        ended = time.monotonic()
        watch.stopping.set()
        for thread in threads:
            thread.join()
    print(watch)
    late = [one for one in watch.probes if one[1] != 200 or one[2] > PROBE_S]
    assert not late, late[:5]
    # Nothing but an answer of Sluice's own: not one that was meant for another's request.
    statuses = {status for _, status in watch.pushes}
    assert statuses <= {204, 503, 0}, statuses
    gap_s = watch.longest_gap_s(began, ended)
    assert gap_s < GAP_S, f"{gap_s:.1f} s without a push that was taken"
    assert max(watch.resident) < MEMORY_MIB * MIB
    check_books(server, upstream, watch)


def check_books(server: Sluice, upstream: Upstream, watch: Watch) -> None:
    """Each team's usage is what upstream acknowledged, and no limit was passed."""
    wait_until(lambda: server.metric("tco_pushes_in_flight") == 0, "all is quiet")
    acknowledged: dict[str, int] = {}
    for push in upstream.acknowledged():
        # Of bodies that only a lenient reader reads, upstream here cannot say whose they are.
        for name, (_, size) in push.get("namespaces", {}).items():
            acknowledged[name] = acknowledged.get(name, 0) + size
    teams = server.teams()
    for name, team in teams.items():
        used = team["currentUsage"], acknowledged.get(name, 0)
        assert used[0] == used[1], f"{name}: usage {used[0]}, upstream acknowledged {used[1]}"
        assert used[0] <= team["dailyLimit"], name
        counts = team["counts"]
        parts = ("forwarded", "sampled", "dropped", "refused")
        for unit in ("entries", "bytes"):
            assert counts["received"][unit] == sum(counts[part][unit] for part in parts), name
    taken = sum(status == 204 for _, status in watch.pushes)
    assert teams["good"]["counts"]["forwarded"]["entries"] >= taken


def crowd(work: Callable[[int], None], n: int, seconds: float) -> None:
    """Have `n` threads work over and over for so long; what goes wrong on the wire is expected."""
    until = time.monotonic() + seconds

    def run(number: int) -> None:
        while time.monotonic() < until:
            with contextlib.suppress(*NO_ANSWER):
                work(number)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def connections(port: int, n: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that have sent `first`, as many of `n` as come about."""
    with contextlib.ExitStack() as stack:
        socks = []
        for _ in range(n):
            try:
                sock = socket.create_connection(("127.0.0.1", port), timeout=5)
            except OSError:
                break
            socks.append(stack.enter_context(sock))
            with contextlib.suppress(OSError):
                sock.sendall(first)
        yield socks


def drip(socks: list[socket.socket], seconds: float, every_s: float = 0.2) -> None:
    """Send a byte now and then over each connection, for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.send(b"x", socket.MSG_DONTWAIT)
        threading.Event().wait(every_s)


def exchange(port: int, request: bytes, timeout_s: float = 30.0) -> bytes:
    """Send bytes over a new connection and read what comes back until the server stops talking."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as sock:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(request)
        with contextlib.suppress(ConnectionResetError):
            return sock.recv(65_536)
    return b""
