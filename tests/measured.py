"""Runs `sluice` like `python -m sluice`, for a coverage that sees the threads of requests too.

Those threads are granian's, begun without Python's knowledge; coverage traces only threads that
`threading` starts (until it uses sys.monitoring, with Python 3.14). So each request hands the
tracer on to its thread before any code of Sluice runs. Used by harness.py while measuring.
"""

import sys
import threading
from typing import Any

import flask

from sluice.__main__ import main

plain_call = flask.Flask.__call__
tracers: dict[int, Any] = {}


def traced_call(app: flask.Flask, environ: Any, start_response: Any) -> Any:
    """Answer a request under coverage's tracer; one and the same for all of a thread's."""
    if sys.gettrace() is None and threading.gettrace() is not None:
        me = threading.get_ident()
        sys.settrace(tracers.get(me, threading.gettrace()))
        answer = plain_call(app, environ, start_response)
        tracers[me] = sys.gettrace()
        return answer
    return plain_call(app, environ, start_response)


flask.Flask.__call__ = traced_call  # type: ignore[method-assign]

if __name__ == "__main__":
    main(prog_name="sluice")
