"""What `make servers` built, for tests that start it."""

import os
from pathlib import Path

import pytest
from servers import build


def find(name: str) -> Path | None:
    """What `make servers` built of this source, a program or a folder of them, or None."""
    return build.place(name) if build.stands(name) else None


def need(name: str) -> Path:
    """What `make servers` built of this source; without it the test is skipped, or fails."""
    found = find(name)
    if found is not None:
        return found
    if os.environ.get("SLUICE_SERVERS_REQUIRED") == "1":
        pytest.fail(
            f"SLUICE_SERVERS_REQUIRED=1, but {name} was not built: make servers", pytrace=False
        )
    # The only place that skips for this reason: pytest then reports one line for all tests.
    pytest.skip(f"no real {name} here; `make servers` builds it once, in {build.GO[name].cost}")
