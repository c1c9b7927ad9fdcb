"""Many agents in one process: what each counts, hears and reports is real, their pushes are not.

A node is an agent's own Ledger (in memory), Gate, Elsewhere, Due and Reporter with the real client
of the API server; threads tick them as the agent's reporting thread does. Left out is what never
meets the controller: HTTP, upstream, the saved table.

Shared is the reading of TeamBudgets, for one process cannot parse what 800 do: one informer tells
all nodes, and each other node's watch is a real connection whose events are received and thrown
away. All nodes use the administrator's token: no admission policy looks at their reports.
"""

import contextlib
import selectors
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cluster.control_plane import ADMIN
from cluster.harness import BUDGETS, Cluster

from sluice import Budget, Gate, ledger, pace
from sluice.agent import elsewhere, report, saved
from sluice.kube import client, informer

THREADS = 50
GROW_S = 1.0
RECEIVE_BYTES = 2**18
WATCH_S = 3600


@dataclass(frozen=True)
class Growth:
    """A team's use of its limit over the cluster: bytes to begin with, then bytes per second."""

    team: Budget
    at_first: int
    per_s: float


class Node:
    """One agent, without its HTTP; ticked by one thread."""

    def __init__(
        self, name: str, api: client.Api, growths: Sequence[Growth], share: float, folder: Path
    ) -> None:
        self.others = elsewhere.Elsewhere()
        self.book = ledger.Ledger(room=self.others.room)
        self.gate = Gate(None, self.book, system_namespace="sluice-system")
        self.gate.load([growth.team for growth in growths])
        self.teams = self.gate.resolve([growth.team.namespace for growth in growths])
        self.per_s = np.array([share * growth.per_s for growth in growths])
        self.reporter = report.Reporter(
            api,
            self.book,
            self.others,
            saved.Reported(folder / f"{name}.json"),
            node=name,
            instance=name,
            settings=pace.Pace(),
            clock=time.time,
            monotonic=time.monotonic,
        )
        self.grown_at = 0.0
        self.count(np.array([share * growth.at_first for growth in growths]))

    def count(self, sizes: npt.NDArray[np.float64]) -> None:
        """Judge an entry of each team, and count what passes."""
        self.gate.evaluate(self.teams, sizes.astype(np.int64), now=time.time())

    def tick(self, now: float, is_loaded: bool) -> None:
        """What the agent's threads do every so often, and its shippers."""
        if is_loaded and now - self.grown_at >= GROW_S:
            self.count(self.per_s * min(GROW_S * 2, now - self.grown_at))
            self.grown_at = now
        self.book.redraw(self.others.changed())
        self.reporter.tick()


class Nodes:
    """All nodes and what drives them, from `start()` to `stop()`.

    Attributes:
        is_loaded: whether teams grow.
        slowest_s: the longest round that any thread took to tick its nodes; far below a floor, or
            the simulation has not kept up.
        reporting: by team, the nodes that its status says count for it.
    """

    def __init__(self, cluster: Cluster, growths: Sequence[Growth], count: int) -> None:
        self.folder = cluster.folder / "nodes"
        self.folder.mkdir()
        config = cluster.kubeconfig()
        apis = [client.connect(config, user_agent="sluice-agent") for _ in range(THREADS)]
        self.nodes = [
            Node(f"node-{i:04}", apis[i % THREADS], growths, 1 / count, self.folder)
            for i in range(count)
        ]
        self.is_loaded = False
        self.slowest_s = 0.0
        self.reporting: dict[str, int] = {}
        self.stopping = threading.Event()
        self.informer = informer.Informer(client.connect(config), "teambudgets", self.hear)
        self.watches = Watches(cluster, count - 1)
        self.threads = [
            threading.Thread(target=self.drive, args=(self.nodes[i::THREADS],))
            for i in range(THREADS)
        ]
        self.threads.append(threading.Thread(target=self.watches.drain, args=(self.stopping,)))

    def hear(self, _kind: str, found: dict[str, Any]) -> None:
        """Tell every node what one of them would have heard."""
        metadata = found["metadata"]
        key = f"{metadata['namespace']}/{metadata['name']}"
        status = elsewhere.Status.of(found.get("status") or {})
        if status is not None:
            self.reporting[key] = status.nodes
            for node in self.nodes:
                node.others.hear(key, status)

    def drive(self, nodes: Sequence[Node]) -> None:
        """Tick these nodes until told to stop."""
        while not self.stopping.is_set():
            began = time.monotonic()
            for node in nodes:
                node.tick(time.monotonic(), self.is_loaded)
            took = time.monotonic() - began
            if self.is_loaded:
                self.slowest_s = max(self.slowest_s, took)
            self.stopping.wait(max(0.0, report.TICK_S - took))

    def start(self) -> None:
        self.informer.start()
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self.informer.stop()
        for thread in self.threads:
            if thread.is_alive():
                thread.join()
        self.watches.close()

    def failed(self) -> int:
        """Reports so far that the API server has not taken."""
        counters = [node.reporter.counters for node in self.nodes]
        return sum(sum(each.values()) - each["acknowledged"] for each in counters)


class Watches:
    """Watches of the TeamBudgets, each over a connection of its own, that are only received.

    Attributes:
        received: bytes, of all.
    """

    def __init__(self, cluster: Cluster, count: int) -> None:
        query = urllib.parse.urlencode({"watch": "true", "timeoutSeconds": WATCH_S})
        self.request = (
            f"GET {BUDGETS}?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {ADMIN}\r\n\r\n"
        ).encode()
        self.trust = ssl.create_default_context(cafile=str(cluster.api.ca))
        self.selector = selectors.DefaultSelector()
        self.received = 0
        for _ in range(count):
            plain = socket.create_connection(("127.0.0.1", cluster.api.port))
            held = self.trust.wrap_socket(plain, server_hostname="127.0.0.1")
            held.sendall(self.request)
            held.setblocking(False)
            self.selector.register(held, selectors.EVENT_READ)

    def drain(self, stopping: threading.Event) -> None:
        """Receive until told to stop."""
        while not stopping.is_set():
            for key, _ in self.selector.select(timeout=0.2):
                assert isinstance(key.fileobj, ssl.SSLSocket)
                with contextlib.suppress(ssl.SSLWantReadError):
                    while data := key.fileobj.recv(RECEIVE_BYTES):
                        self.received += len(data)
                    raise ConnectionError("the API server has ended a watch")

    def close(self) -> None:
        for key in list(self.selector.get_map().values()):
            assert isinstance(key.fileobj, ssl.SSLSocket)
            key.fileobj.close()
        self.selector.close()
