"""Fixtures that several test files share; harness.py has the processes behind them."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest
import twins
from cluster.harness import Cluster
from harness import Sluice, Upstream, running, write_budgets
from loki.harness import Loki
from monitoring.harness import program
from needs import need

# No deadline per example: the machine is shared, and a slow example is no wrong one.
hypothesis.settings.register_profile("sluice", deadline=None)
hypothesis.settings.load_profile("sluice")

# What a marker asks for.
NEEDS = {"loki": "loki", "cluster": "kubernetes", "helm": "helm"}
# Programs of Debian's packages of the same name.
DEBIAN_NEEDS = {
    "prometheus": "prometheus",
    "alertmanager": "prometheus-alertmanager",
    "chromium": "chromium",
}


def need_debian(name: str) -> None:
    """Go on where this program of Debian's is; else the test is skipped, or fails."""
    if program(name):
        return
    if os.environ.get("SLUICE_SERVERS_REQUIRED") == "1":
        pytest.fail(f"SLUICE_SERVERS_REQUIRED=1, but there is no {name}: make servers, as root",
                    pytrace=False)  # fmt: skip
    pytest.skip(f"no {name} here; `make servers` installs Debian's, as root")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark, name in DEBIAN_NEEDS.items():
        if item.get_closest_marker(mark):
            need_debian(name)
    for mark, name in NEEDS.items():
        if item.get_closest_marker(mark):
            need(name)


@pytest.fixture(scope="module", params=twins.CORES)
def core(request: pytest.FixtureRequest) -> ModuleType:
    """The core, compiled and as its reference."""
    return twins.CORES[request.param]


@pytest.fixture(scope="session")
def loki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loki]:
    """The real Loki, a `loki.harness.Loki`, one for the whole run: tests use their own tenants."""
    server = Loki(tmp_path_factory.mktemp("loki"), need("loki"))
    with running(server):
        yield server


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A real API server with our CRDs, roles and policies, a `cluster.harness.Cluster`.

    One for the whole run, for tests that leave it as it was: each makes namespaces and nodes of
    its own.
    """
    server = Cluster(tmp_path_factory.mktemp("cluster"), need("kubernetes"))
    try:
        yield server.start().install()
    finally:
        server.kill()


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The same for one file, whose agents must not meet statuses that no controller would write."""
    server = Cluster(tmp_path_factory.mktemp("cluster"), need("kubernetes"))
    try:
        yield server.start().install()
    finally:
        server.kill()


@pytest.fixture
def fresh_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """An API server of the test's own with nothing installed, to be restarted or filled."""
    server = Cluster(tmp_path / "cluster", need("kubernetes"))
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    """A namespace of the test's own on the shared API server."""
    return cluster.namespace(f"test-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    """A `harness.Upstream` in another process, which records what it acknowledges."""
    server = Upstream(tmp_path / "upstream", record=True)
    with running(server):
        yield server


@pytest.fixture
def sluice(tmp_path: Path) -> Iterator[Callable[..., Sluice]]:
    """A maker of `harness.Sluice`: `sluice(budgets, upstream_url, ...)` starts `sluice run`.

    At the end each one that still runs is asked to stop, as its supervisor would.
    """
    made: list[Sluice] = []

    def make(budgets: list[dict[str, Any]], upstream: str, **more: Any) -> Sluice:
        folder = tmp_path / f"sluice-{len(made)}"
        path = write_budgets(folder / "budgets.yaml", budgets)
        made.append(Sluice(folder, path, upstream, **more))
        return made[-1].start()

    yield make
    try:
        for server in made:
            if server.process is not None:
                assert server.stop() == 0, server.tail()
    finally:
        for server in made:
            server.kill()
