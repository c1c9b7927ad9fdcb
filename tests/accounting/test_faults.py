"""Cluster accounting whatever is lost, restarted, folded or taken over, in any order."""

import tempfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
from cluster_model import KEY, TODAY, World, nodeusage, own
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule


class Faults(RuleBasedStateMachine):
    """Invariant: whatever is lost, restarted, folded or taken over, usage never falls within the
    day, and once all is quiet it is what the nodes let pass, to the byte."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self.folder.name))
        self.passed = dict.fromkeys((KEY, "pay/pay"), 0)
        self.has_lost = False
        self.shown = dict.fromkeys(self.passed, 0)

    @initialize()
    def begin(self) -> None:
        for name in ("shop", "pay"):
            self.world.api.apply(name, name, dailyLimit=10_000_000)
        for name in "abc":
            self.world.node(name)

    nodes = st.sampled_from("abc")
    pods = st.sampled_from(["a", "b", "c", "a 2", "b 2"])

    @rule(name=pods, team=st.sampled_from(["shop", "pay"]), size=st.integers(1, 200_000))
    def push(self, name: str, team: str, size: int) -> None:
        node = self.world.nodes.get(name)
        if node is not None and node.is_up:
            self.passed[f"{team}/{team}"] += node.push(team, size)

    @rule(name=pods, seconds=st.sampled_from([0.2, 3, 70]))
    def tell(self, name: str, seconds: float) -> None:
        self.world.pass_time(seconds)
        if name in self.world.nodes:
            self.world.nodes[name].tick()

    @rule(name=pods, events=st.integers(0, 5))
    def hear(self, name: str, events: int) -> None:
        if name in self.world.nodes:
            self.world.nodes[name].follow(events)

    @rule(events=st.integers(0, 5))
    def control(self, events: int) -> None:
        self.world.control(events)

    @rule(fault=st.sampled_from(["request", "reply"]))
    def lose(self, fault: str) -> None:
        self.world.api.fault = fault

    @rule()
    def take_over(self) -> None:
        self.world.lead()

    @rule(name=pods)
    def restart(self, name: str) -> None:
        node = self.world.nodes.get(name)
        if node is not None:
            if node.is_up:
                node.stop(kill=True)
            node.start()

    @rule(name=st.sampled_from("ab"))
    def second_pod(self, name: str) -> None:
        if f"{name} 2" not in self.world.nodes:
            self.world.second_pod(name)

    # Not before the agent has seen the object: what it had is on no disk then.
    @rule(name=nodes)
    def lose_object(self, name: str) -> None:
        usage, node = self.world.api.node_usage(name), self.world.nodes[name]
        has_seen = usage is not None and usage["metadata"]["uid"] == node.reporter._state.uid
        if node.is_up and has_seen and f"{name} 2" not in self.world.nodes:
            self.world.api.lose(name)
            self.has_lost = True

    @rule(name=pods)
    def replace_pod(self, name: str) -> None:
        node = self.world.nodes.get(name)
        if node is None or not node.is_up:
            return
        self.world.api.fault = ""
        if node.reporter.final():
            node.stop(kill=True)
            node.start(keep=False)

    @rule(name=nodes)
    def lose_node(self, name: str) -> None:
        node = self.world.nodes[name]
        usage = self.world.api.node_usage(name)
        if node.is_up and usage is not None and f"{name} 2" not in self.world.nodes:
            self.world.api.fault = ""
            self.world.api.delete_node(name)

    @rule(number=st.integers(0, 2), is_lost=st.booleans())
    def lose_ledger(self, number: int, is_lost: bool) -> None:
        name = nodeusage.ledger_name(number)
        if ("nodelogusages", name) not in self.world.api.objects:
            return
        # No other process has what it holds: the leader has seen it, and lives.
        self.world.api.fault = ""
        self.world.control()
        if is_lost:
            self.world.api.lose(name)
        else:
            self.world.api.delete_node(name)
        for _ in range(3):
            self.world.pass_time(3)
            self.world.control()

    @rule(name=nodes)
    def remove_node(self, name: str) -> None:
        node = self.world.nodes[name]
        self.world.api.fault = ""
        if node.is_up and f"{name} 2" not in self.world.nodes and node.reporter.final():
            node.stop(kill=True)
            self.world.api.delete_node(name)

    @rule(name=nodes, seconds=st.sampled_from([1, 10, 200]), keep=st.booleans())
    def come_back(self, name: str, seconds: int, keep: bool) -> None:
        node = self.world.nodes[name]
        if not node.is_up:
            for _ in range(seconds):
                self.world.pass_time(1)
                self.world.control()
            node.start(keep=keep)

    @invariant()
    def usage_never_falls(self) -> None:
        for key, before in self.shown.items():
            found = self.world.api.objects.get(("teambudgets", key), {}).get("status", {})
            now = found.get("currentUsage", 0)
            assert (before if not self.has_lost else 0) <= now <= self.passed[key], key
            self.shown[key] = now

    def teardown(self) -> None:
        try:
            self.world.api.fault = ""
            if self.world.nodes:
                self.world.settle()
                self.check()
        finally:
            self.folder.cleanup()

    def check(self) -> None:
        for key, passed in self.passed.items():
            assert self.world.status(key)["currentUsage"] == passed, key
            for node in self.world.nodes.values():
                if node.is_up:
                    others = passed - own(node, key, TODAY)
                    assert node.others.bytes_of(key, TODAY) == others, (key, node.name)


TestFaults = Faults.TestCase
TestFaults.settings = hypothesis.settings(max_examples=60, stateful_step_count=40, deadline=None)
