"""Fixtures that several test files share; harness.py has the processes behind them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from harness import Loki, Sluice, Upstream, running, write_budgets
from servers import build

# No deadline per example: the machine is shared, and a slow example is no wrong one.
hypothesis.settings.register_profile("sluice", deadline=None)
hypothesis.settings.load_profile("sluice")


def find_loki() -> Path | None:
    """The Loki that `make servers` built, or None."""
    return build.loki() if build.loki().exists() else None


def need_loki() -> Path:
    """The Loki that `make servers` built; without it the test is skipped, or fails."""
    binary = find_loki()
    if binary is not None:
        return binary
    if os.environ.get("SLUICE_SERVERS_REQUIRED") == "1":
        pytest.fail(
            "SLUICE_SERVERS_REQUIRED=1, but Loki was not built: make servers", pytrace=False
        )
    # The only place that skips for this reason: pytest then reports one line for all tests.
    pytest.skip("no real Loki here; `make servers` builds it once, in about 6 minutes")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("loki"):
        need_loki()


@pytest.fixture(scope="session")
def loki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loki]:
    """The real Loki, a `harness.Loki`, one for the whole run: tests use tenants of their own."""
    server = Loki(tmp_path_factory.mktemp("loki"), need_loki())
    with running(server):
        yield server


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
