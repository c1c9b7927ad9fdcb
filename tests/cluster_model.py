"""A cluster in one thread, for tests of the accounting: an API server that loses what it is told
to lose, nodes whose agents restart, and a controller. Clocks are numbers that the test moves."""

import copy
import itertools
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sluice import budget, columns, ledger, ledger_file, nodeusage, pace
from sluice.agent import budgets, elsewhere, report, saved
from sluice.controller import fleet, loop, totals
from sluice.gate import Gate
from sluice.kube import client

NOON = 1_795_435_200.0  # 2026-11-23T12:00:00Z
KEY, TODAY = "shop/shop", "d/2026-11-23"
PACE = pace.Pace(floor=2, ceiling=60, heartbeat=10, stale=180)

Object = dict[str, Any]


class ApiServer:
    """Objects, their versions, and what happens to the next call.

    Attributes:
        fault: "" or what happens to the next write: "request" loses it before, "reply" after.
        is_down: nobody is answered; events that were there are still seen.
        crd: of NodeLogUsages: "served", "ending" while it is being deleted, or "gone".
        events: (plural, kind, object) in order, for whoever watches.
        told: the Events that were made.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.events: list[tuple[str, str, Object]] = []
        self.version, self.uids = itertools.count(1), itertools.count(1)
        self.revision = 0
        self.told: list[Object] = []
        self.fault = ""
        self.is_down = False
        self.crd = "served"
        self.calls = 0

    def save(self, plural: str, kind: str, obj: Object) -> Object:
        self.revision = next(self.version)
        obj["metadata"]["resourceVersion"] = str(self.revision)
        key = (plural, self.key(obj))
        if kind == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = obj
        self.events.append((plural, kind, copy.deepcopy(obj)))
        return copy.deepcopy(obj)

    @staticmethod
    def key(obj: Object) -> str:
        meta = obj["metadata"]
        return f"{meta['namespace']}/{meta['name']}" if "namespace" in meta else str(meta["name"])

    def write(self, act: Callable[[], Object]) -> Object:
        self.calls += 1
        fault, self.fault = self.fault, ""
        if self.is_down:
            raise client.Unreachable("down")
        if fault == "request":
            raise client.Unreachable("lost on its way")
        done = act()
        if fault == "reply":
            raise client.Unreachable("the answer was lost")
        return done

    def checked(self, plural: str, obj: Object) -> Object:
        """The object as it is, which `obj` must name the version of."""
        found = self.objects.get((plural, self.key(obj)))
        if found is None:
            raise client.NotFound(f"no {self.key(obj)}")
        wanted = obj["metadata"].get("resourceVersion")
        if wanted is not None and wanted != found["metadata"]["resourceVersion"]:
            raise client.Conflict("another version")
        return copy.deepcopy(found)

    # what Sluice calls

    def identity(self) -> client.Identity:
        return client.Identity(node_uid="uid-node")

    def node_usage(self, name: str) -> Object | None:
        self.calls += 1
        if self.is_down:
            raise client.Unreachable("down")
        return copy.deepcopy(self.objects.get(("nodelogusages", name)))

    def create_node_usage(self, obj: Object) -> Object:
        def act() -> Object:
            if self.crd == "ending":
                raise client.Terminating("create not allowed while the CRD is terminating")
            if self.crd == "gone":
                raise client.NotFound("no such resource")
            if ("nodelogusages", obj["metadata"]["name"]) in self.objects:
                raise client.Conflict("it is there")
            made = copy.deepcopy(obj)
            made["metadata"]["uid"] = f"uid-{next(self.uids)}"
            return self.save("nodelogusages", "ADDED", made)

        return self.write(act)

    def put_node_usage_status(self, obj: Object) -> Object:
        def act() -> Object:
            found = self.checked("nodelogusages", obj)
            check_transition(found.get("status", {}), obj["status"])
            check_size(obj["status"])
            found["status"] = copy.deepcopy(obj["status"])
            return self.save("nodelogusages", "MODIFIED", found)

        return self.write(act)

    def put_node_usage(self, obj: Object) -> Object:
        def act() -> Object:
            found = self.checked("nodelogusages", obj)
            found["metadata"] = copy.deepcopy(obj["metadata"])
            gone = "deletionTimestamp" in found["metadata"] and not found["metadata"]["finalizers"]
            saved = self.save("nodelogusages", "DELETED" if gone else "MODIFIED", found)
            self.end_crd()
            return saved

        return self.write(act)

    def delete_node_usage(self, name: str, uid: str | None = None) -> None:
        def act() -> Object:
            found = self.objects.get(("nodelogusages", name))
            if found is None:
                raise client.NotFound(f"no {name}")
            if uid not in (None, found["metadata"]["uid"]):
                raise client.Conflict("another uid")
            self.delete_node(name)
            return {}

        self.write(act)

    def patch_budget_status(
        self, namespace: str, name: str, status: Object, resource_version: str | None = None
    ) -> Object:
        def act() -> Object:
            meta = {"namespace": namespace, "name": name, "resourceVersion": resource_version}
            found = self.checked("teambudgets", {"metadata": meta})
            merged = {**found.get("status", {}), **copy.deepcopy(status)}
            found["status"] = {k: v for k, v in merged.items() if v is not None}
            return self.save("teambudgets", "MODIFIED", found)

        return self.write(act)

    def create_event(self, namespace: str, event: Object) -> Object:
        self.told.append(event)
        return event

    # what people and the garbage collector do

    def apply(self, namespace: str, name: str, **spec: Any) -> None:
        found = self.objects.get(("teambudgets", f"{namespace}/{name}"))
        made: Object = copy.deepcopy(found) if found else {
            "apiVersion": budget.API_VERSION,
            "kind": budget.KIND,
            "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{next(self.uids)}",
                         "generation": 0},
        }  # fmt: skip
        made["spec"] = spec
        made["metadata"]["generation"] += 1
        self.save("teambudgets", "MODIFIED" if found else "ADDED", made)

    def delete_budget(self, namespace: str, name: str) -> None:
        self.save("teambudgets", "DELETED", self.objects["teambudgets", f"{namespace}/{name}"])

    def delete_crd(self) -> None:
        """Delete the CRD of NodeLogUsages; it ends once no object is left."""
        self.crd = "ending"
        for plural, name in list(self.objects):
            if plural == "nodelogusages":
                self.delete_node(name)
        self.end_crd()

    def end_crd(self) -> None:
        if self.crd == "ending" and not any(kind == "nodelogusages" for kind, _ in self.objects):
            self.crd = "gone"

    def lose(self, name: str) -> None:
        """Somebody removes an object's finalizer and deletes it."""
        found = copy.deepcopy(self.objects["nodelogusages", name])
        self.save("nodelogusages", "DELETED", found)

    def delete_node(self, name: str) -> None:
        found = copy.deepcopy(self.objects["nodelogusages", name])
        if not found["metadata"].get("finalizers"):
            self.save("nodelogusages", "DELETED", found)
            return
        found["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:00Z"
        self.save("nodelogusages", "MODIFIED", found)


def check_transition(old: Object, new: Object) -> None:
    """The CRD's two rules."""
    if "seq" in old and not new.get("seq", 0) > old["seq"]:
        raise client.Invalid("seq must grow with every report")
    for name, teams in old.get("usage", {}).items():
        for team, size in teams.items():
            if new["usage"].get(name, {}).get(team, size) < size:
                raise client.Invalid("usage counters may not decrease")


def check_size(status: Object) -> None:
    """The CRD's bounds on a status."""
    for part in ("usage", "counts"):
        if any(len(teams) > nodeusage.TEAMS_MAX for teams in status.get(part, {}).values()):
            raise client.Invalid(f"{part}: too many teams in a window")


class World:
    """The API server, the clocks, the controller and the nodes."""

    def __init__(self, folder: Path, settings: pace.Pace = PACE) -> None:
        self.folder, self.pace = folder, settings
        self.api = ApiServer()
        self.wall, self.mono = NOON, 1000.0
        self.nodes: dict[str, Node] = {}
        self.is_listing = False
        self.lead()

    def lead(self) -> None:
        """Have a new controller, which reads everything from the API server."""
        made = fleet.Fleet("sluice-system", ("namespace",))
        self.loop = loop.Loop(
            self.api,  # type: ignore[arg-type]
            made,
            self.pace,
            identity="test",
            seen=lambda: None if self.is_listing else self.seen,
            clock=lambda: self.wall,
            monotonic=lambda: self.mono,
        )
        self.at = len(self.api.events)
        self.seen = self.api.revision
        for (plural, _), obj in sorted(
            self.api.objects.items(), key=lambda item: int(item[1]["metadata"]["resourceVersion"])
        ):
            self.tell(plural, "ADDED", copy.deepcopy(obj))
        self.loop.take_over()

    def tell(self, plural: str, kind: str, obj: Object) -> None:
        if plural == "teambudgets":
            self.loop.on_budget(kind, obj)
        else:
            self.loop.on_node(kind, totals.Node.of(obj))

    def control(self, events: int = 10**9) -> None:
        """Have the controller see so many more events, and do what is due."""
        while self.at < len(self.api.events) and events > 0:
            plural, kind, obj = self.api.events[self.at]
            self.tell(plural, kind, copy.deepcopy(obj))
            if plural == "nodelogusages":
                self.seen = int(obj["metadata"]["resourceVersion"])
            self.at += 1
            events -= 1
        self.loop.tick()

    def node(self, name: str) -> "Node":
        self.nodes[name] = Node(self, name)
        return self.nodes[name]

    def second_pod(self, name: str) -> "Node":
        """Another agent on a node that has one; its state directory is its own."""
        self.nodes[f"{name} 2"] = made = Node(self, name, pods=2)
        return made

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.mono += seconds

    def settle(self, seconds: float = 400) -> None:
        """Let everybody do what they want to do, for so long."""
        for _ in range(int(seconds)):
            self.pass_time(1)
            for node in self.nodes.values():
                node.follow()
                node.tick()
            self.control()

    def status(self, key: str) -> Object:
        found: Object = self.api.objects["teambudgets", key].get("status", {})
        return found


class Node:
    """An agent, without its HTTP and its threads; it may be started again."""

    def __init__(self, world: World, name: str, pods: int = 1) -> None:
        self.world, self.name = world, name
        self.folder = world.folder / f"{name}-{pods}"
        self.pods = itertools.count(pods, 10)
        self.is_up = False
        self.clock_error_s = 0.0
        self.start()

    def start(self, *, keep: bool = True) -> None:
        """Start a process: in the same pod, or in a new one with an empty directory."""
        if not keep or not self.folder.exists():
            self.pod = f"{self.name}-pod-{next(self.pods)}"
            self.folder = self.world.folder / self.pod
            self.folder.mkdir()
        self.others = elsewhere.Elsewhere()
        self.budgets = budgets.Budgets(self.others)
        rows = ledger_file.FileRows(self.folder, columns.COLUMNS)
        self.book = ledger.Ledger(rows, room=self.others.room)
        self.gate = Gate(None, self.book, system_namespace="sluice-system")
        self.reporter = report.Reporter(
            self.world.api,
            self.book,
            self.others,
            saved.Reported(self.folder / "report.json"),
            node=self.name,
            instance=self.pod,
            settings=self.world.pace,
            clock=lambda: self.world.wall + self.clock_error_s,
            monotonic=lambda: self.world.mono,
            rng=lambda: 0.5,
        )
        self.queue: deque[tuple[str, Object]] = deque()
        self.at = len(self.world.api.events)
        for (plural, _), obj in self.world.api.objects.items():
            if plural == "teambudgets":
                self.budgets.handle("ADDED", copy.deepcopy(obj))
        self.budgets.settle()
        self.gate.load(self.budgets.take() or self.budgets.all())
        self.is_up = True

    def stop(self, *, kill: bool = False) -> None:
        """End the process, with a last report or without one."""
        if not kill:
            self.reporter.final()
        self.book.close()
        self.is_up = False

    def follow(self, events: int = 10**9) -> None:
        """See so many more events of budgets."""
        while self.is_up and self.at < len(self.world.api.events) and events > 0:
            plural, kind, obj = self.world.api.events[self.at]
            self.at += 1
            if plural == "teambudgets":
                self.budgets.handle(kind, copy.deepcopy(obj))
                events -= 1
        if self.is_up:
            found = self.budgets.take()
            if found is not None:
                self.gate.load(found)
            self.book.redraw(self.others.changed())

    def tick(self) -> None:
        if self.is_up:
            self.book.rules_at(self.world.wall + self.clock_error_s)
            self.reporter.tick()
            self.book.redraw(self.others.changed())

    def push(self, namespace: str, size: int) -> int:
        """Judge one entry; the bytes that went on."""
        teams = self.gate.resolve([namespace])
        (action,) = self.gate.evaluate(teams, np.array([size], np.int64), now=self.world.wall)
        return size if action < 2 else 0


def own(node: Node, key: str, name: str) -> int:
    """What a node's ledger has of a team's window."""
    return node.book.record([key]).get(name, {}).get(key, [0])[0]


__all__ = ["NOON", "PACE", "ApiServer", "Node", "World", "nodeusage", "own"]
