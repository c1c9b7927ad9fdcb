"""Fixtures of tests that run processes on a real API server, or need a network that fails."""

import gc
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.harness import Cluster
from cluster.processes import Agent, Controller, Dashboard
from cluster.proxy import Proxy
from harness import Server


@pytest.fixture
def proxy(cluster: Cluster) -> Iterator[Proxy]:
    """A proxy before the shared API server, a `cluster.proxy.Proxy`."""
    # A socket that is reset before TLS begins on it is left to the garbage collector by CPython
    # 3.11 (ssl.SSLSocket._create), and that is to find it here and not in another test.
    # pytest restores the filters after each test.
    warnings.filterwarnings("ignore", "unclosed <ssl.SSLSocket", ResourceWarning)
    with Proxy(cluster.api.port) as made:
        yield made
    gc.collect()


@pytest.fixture
def node() -> str:
    """The name of a node of the test's own."""
    return f"node-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """A maker of agents: `agents(cluster, node, upstream.url, ...)` starts one.

    At the end each one that still runs is asked to stop, as the kubelet would.
    """
    made: list[Server] = []

    def make(cluster: Cluster, node: str, upstream: str, **more: Any) -> Agent:
        agent = Agent(tmp_path / f"agent-{len(made)}", cluster, node, upstream, **more)
        made.append(agent)
        agent.start()
        return agent

    yield make
    stop_all(made)


@pytest.fixture
def controllers(tmp_path: Path) -> Iterator[Callable[..., Controller]]:
    """A maker of controllers: `controllers(cluster, ...)` starts one, and stops it at the end."""
    made: list[Server] = []

    def make(cluster: Cluster, **more: Any) -> Controller:
        controller = Controller(tmp_path / f"controller-{len(made)}", cluster, **more)
        made.append(controller)
        controller.start()
        return controller

    yield make
    stop_all(made)


@pytest.fixture
def dashboards(tmp_path: Path) -> Iterator[Callable[..., Dashboard]]:
    """A maker of dashboards: `dashboards(cluster, ...)` starts one, and stops it at the end."""
    made: list[Server] = []

    def make(cluster: Cluster, **more: Any) -> Dashboard:
        dashboard = Dashboard(tmp_path / f"dashboard-{len(made)}", cluster, **more)
        made.append(dashboard)
        dashboard.start()
        return dashboard

    yield make
    stop_all(made)


def stop_all(servers: list[Server]) -> None:
    """Ask what still runs to stop, which it is to do well."""
    try:
        for server in servers:
            if server.process is not None:
                assert server.stop() == 0, server.tail()
    finally:
        for server in servers:
            server.kill()
