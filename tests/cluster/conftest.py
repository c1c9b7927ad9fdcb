"""Fixtures of tests that run processes on a real API server, or need a network that fails."""

import gc
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cluster.harness import Cluster
from cluster.processes import Agent, Controller, Dashboard, Process
from cluster.proxy import Proxy

T = TypeVar("T", bound=Process)


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
    """A maker of agents: `agents(cluster, node, upstream.url, ...)` starts one."""
    yield from maker(Agent, tmp_path)


@pytest.fixture
def controllers(tmp_path: Path) -> Iterator[Callable[..., Controller]]:
    """A maker of controllers: `controllers(cluster, ...)` starts one."""
    yield from maker(Controller, tmp_path)


@pytest.fixture
def dashboards(tmp_path: Path) -> Iterator[Callable[..., Dashboard]]:
    """A maker of dashboards: `dashboards(cluster, ...)` starts one."""
    yield from maker(Dashboard, tmp_path)


def maker(kind: type[T], folder: Path) -> Iterator[Callable[..., T]]:
    """The one value is a maker: it starts a process of this kind, each in a folder of its own.

    At the end each one that still runs is asked to stop, as the kubelet would, which it is to do
    well.
    """
    made: list[T] = []

    def make(*args: Any, **more: Any) -> T:
        made.append(kind(folder / f"{kind.name}-{len(made)}", *args, **more))
        return made[-1].start()

    yield make
    try:
        for each in made:
            if each.process is not None:
                assert each.stop() == 0, each.tail()
    finally:
        for each in made:
            each.kill()
