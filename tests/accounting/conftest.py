"""Fixtures of tests that keep the books of a cluster."""

from pathlib import Path

import pytest
from cluster_model import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A cluster in this thread with one budget, that of shop."""
    made = World(tmp_path)
    made.api.apply("shop", "shop", dailyLimit=1_000_000)
    return made
