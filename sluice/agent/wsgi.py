"""Calls the WSGI application for every request that is not a push."""

import io
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from sluice.agent.request import Request

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication


class Answer(NamedTuple):
    """An application's answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def ask(app: "WSGIApplication", request: Request, port: int) -> Answer:
    """The application's answer, whole."""
    got: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(
        status: str, headers: list[tuple[str, str]], _error: object = None
    ) -> Callable[[bytes], object]:
        got.append((status, headers))
        return lambda _: None

    parts: Iterable[bytes] = app(environ(request, port), start_response)
    try:
        body = b"".join(parts)
    finally:
        close = getattr(parts, "close", None)
        if close is not None:
            close()
    status, headers = got[-1]
    return Answer(int(status[:3]), headers, body)


def environ(request: Request, port: int) -> dict[str, Any]:
    """What PEP 3333 has an application know of a request."""
    found: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        # PEP 3333: bytes as Latin-1.
        "PATH_INFO": request.path.encode().decode("latin-1"),
        "QUERY_STRING": request.query,
        "SERVER_NAME": "sluice",
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": request.peer,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in request.headers:
        # With an underscore it would pass for the header with a dash.
        if value is None or "_" in name:
            continue
        key = "HTTP_" + name.upper().replace("-", "_")
        if key in found:
            found[key] += f",{value}"
        else:
            found[key] = value
    found.pop("HTTP_CONTENT_LENGTH", None)
    found["CONTENT_TYPE"] = found.pop("HTTP_CONTENT_TYPE", "")
    found["CONTENT_LENGTH"] = str(len(request.body))
    return found
