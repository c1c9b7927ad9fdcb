"""Prints the benchmarks' tables at the end, as Markdown; --bench-table FILE writes them, too."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import load
import pytest
import race as races


@pytest.fixture
def race(benchmark: Any) -> Callable[..., races.Result]:
    """race.race() under pytest-benchmark, whose own table has ours only."""
    return functools.partial(races.race, benchmark)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("wrk"):
        # The one place that skips for this reason: pytest then reports one line for all.
        load.need("wrk", "nginx")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bench-table", type=Path, help="write the tables, as Markdown, to this file")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    text = "\n\n".join(
        f"### {title}\n\n{races.as_markdown(rows)}" for title, rows in races.tables.items()
    )
    terminalreporter.write_line(f"\n{text}\n")
    file: Path | None = config.getoption("--bench-table")
    if file and text:
        file.write_text(text + "\n")
