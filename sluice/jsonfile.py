"""JSON objects in files: what a process must still know after a restart.

Written by rename, so that a kill leaves the old or the new one, and synced before it, for a machine
that comes back may bring the directory with it.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

log = logging.getLogger("sluice")


def read(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} where there is none, or none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read and is left out: %s", path, error)
        return {}
    return found if isinstance(found, dict) else {}


def write(path: Path, value: dict[str, Any]) -> None:
    """Replace a file by a JSON object; OSError if it cannot be done, and then it is as it was."""
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.write(json.dumps(value, separators=(",", ":")).encode())
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
