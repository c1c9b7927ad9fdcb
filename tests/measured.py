"""Runs `sluice` like `python -m sluice`, for a coverage that sees the threads of requests too.

Those threads are granian's, begun without Python's knowledge; coverage traces only threads that
`threading` starts (until it uses sys.monitoring, with Python 3.14). So each request hands the
tracer on to its thread before any code of Sluice runs. Used by harness.py while measuring.
"""

import sys
import threading
from typing import Any

from sluice.agent import inline
from sluice.commands import main

plain_call = inline.call
tracers: dict[int, Any] = {}


def traced_call(step: Any, *args: object) -> None:
    """Run a step under coverage's tracer; one and the same for all of a thread's."""
    if sys.gettrace() is None and threading.gettrace() is not None:
        me = threading.get_ident()
        sys.settrace(tracers.get(me, threading.gettrace()))
        plain_call(step, *args)
        tracers[me] = sys.gettrace()
        return
    plain_call(step, *args)


inline.call = traced_call

if __name__ == "__main__":
    main(prog_name="sluice")
