"""JSON objects in files: what a process must still know after a restart.

A machine that lost its power may come back with the directory.
"""

import json
import logging
from pathlib import Path
from typing import Any

from sluice import durable

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
    durable.replace(path, json.dumps(value, separators=(",", ":")).encode())
