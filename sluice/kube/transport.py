"""One exchange with the API server: an answer, or one of a family of errors.

Rule 1: an exchange ends within its time-outs, with what was asked for or an error of refusal.py.
Nothing of urllib3 or of the `kubernetes` package gets out.
Rule 2: nothing is repeated here but what a 401 refused before new credentials were read. Whoever
calls knows what a repetition means.

The package gives configuration, credentials and the pool of connections (TLS, proxies). Its
generated classes are left alone: they cost 3 MB more and check each argument on every call, to
no use for custom resources, which are dicts to them too.
"""

import contextlib
import http.client
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson
import urllib3
from kubernetes.client import rest

from sluice.kube import access, refusal

Object = dict[str, Any]

JSON = "application/json"
# (connect, read), seconds. A lost SYN is sent again after 1 and 3 s, hence a little more.
CALL_S = (3.05, 10.0)
# Bytes shown of an answer that is not what was asked for.
SAMPLE = 80

# What the transport raises. ValueError: a header that cannot be sent, or a TLS connection that
# another thread has shut down.
TRANSPORT = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)


class Transport:
    """The connections to one API server.

    Threads: any number.
    """

    def __init__(self, way: access.Access, user_agent: str) -> None:
        self._way = way
        self._base = str(way.configuration.host).rstrip("/")
        self._pool: urllib3.PoolManager = rest.RESTClientObject(way.configuration).pool_manager
        self._headers = {"User-Agent": user_agent, "Accept": JSON}

    def send(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = JSON,
        timeout_s: tuple[float, float] = CALL_S,
    ) -> Object:
        """Ask once and return the answer's object.

        Raises:
            ApiError: one of its children, by what happened.
        """
        content = None if body is None else orjson.dumps(body)
        with self.failures(f"{method} {path}", timeout_s) as what:
            response = self._ask(
                method,
                self._url(path, query),
                body=content,
                headers={"Content-Type": content_type} if content else {},
                timeout=urllib3.Timeout(connect=timeout_s[0], read=timeout_s[1]),
                preload_content=True,
            )
            return _parsed(_accepted(what, response).data)

    def watch(self, path: str, query: Mapping[str, str], silence_s: float) -> "Watch":
        """Open a stream of events.

        Args:
            silence_s: when nothing comes for so long, the API server is Unreachable.
        """
        with self.failures(f"watch {path}", CALL_S) as what:
            # The head of the answer comes at once, only events may take long.
            response = self._ask(
                "GET",
                self._url(path, query),
                body=None,
                headers={},
                timeout=urllib3.Timeout(connect=CALL_S[0], read=CALL_S[1]),
                preload_content=False,
            )
            _accepted(what, response)
            sock = getattr(response.connection, "sock", None)
            if sock is not None:
                sock.settimeout(silence_s)
        return Watch(self, response, what, silence_s)

    def _url(self, path: str, query: Mapping[str, str] | None) -> str:
        return self._base + path + (f"?{urllib.parse.urlencode(query)}" if query else "")

    def _ask(
        self, method: str, url: str, *, headers: dict[str, str], **more: Any
    ) -> urllib3.BaseHTTPResponse:
        """Send a request, and once more if the credentials were old."""

        def ask(credentials: str | None) -> urllib3.BaseHTTPResponse:
            signed = {"Authorization": credentials} if credentials else {}
            sent = {**self._headers, **headers, **signed}
            return self._pool.request(method, url, headers=sent, **more)

        credentials = self._way.authorization()
        response = ask(credentials)
        if response.status == http.client.UNAUTHORIZED:
            renewed = self._way.renewed(credentials)
            if renewed is not None:
                response.close()
                return ask(renewed)
        return response

    @contextlib.contextmanager
    def failures(self, what: str, timeout_s: tuple[float, float]) -> Iterator[str]:
        """Turns what the transport raises into an ApiError that begins with `what`."""
        try:
            yield what
        except access.NoCluster as error:
            raise refusal.Unauthorized(f"{what}: {error}") from error
        except TRANSPORT as error:
            # The idle connections have most likely shared this one's fate, and each of them
            # would cost a time-out of its own. Those in use are left alone.
            self._pool.clear()
            raise refusal.Unreachable(f"{what}: {_words(error, timeout_s)}") from error


class Watch:
    """An open stream of events, `{"type": ..., "object": ...}`, until the API server ends it.

    Threads: one iterates and closes, any may `cut`.
    """

    def __init__(
        self,
        transport: Transport,
        response: urllib3.BaseHTTPResponse,
        what: str,
        silence_s: float,
    ) -> None:
        self._transport, self._response = transport, response
        self._what, self._silence_s = what, silence_s

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()
        self._response.release_conn()

    def __iter__(self) -> Iterator[Object]:
        """The events; returns at a clean end.

        Raises:
            Gone: the version to watch from is too old.
            ApiError: the stream broke, or the API server says what is wrong.
        """
        with self._transport.failures(self._what, (0.0, self._silence_s)):
            for line in lines(self._response.stream(None, decode_content=False)):
                event = _parsed(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise refusal.refused(self._what, int(status.get("code", 0)), status, 0.0)
                yield event

    def cut(self) -> None:
        """End it from another thread, also while that one waits for an event."""
        # Nothing to shut down: it has just ended by itself.
        with contextlib.suppress(ValueError, RuntimeError, OSError):
            self._response.shutdown()


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The whole lines in a stream of bytes; what is left of a broken one is dropped."""
    rest_of_line = b""
    for chunk in chunks:
        *whole, rest_of_line = (rest_of_line + chunk).split(b"\n")
        yield from filter(None, whole)


def _accepted(what: str, response: urllib3.BaseHTTPResponse) -> urllib3.BaseHTTPResponse:
    """The response, if it is a success."""
    if response.status < http.client.MULTIPLE_CHOICES:
        return response
    text = response.data
    try:
        answer = _parsed(text)
    except ValueError:
        # Not the API server's words but those of something before it.
        answer = {"message": text.decode(errors="replace")}
    wait = response.headers.get("Retry-After", "")
    raise refusal.refused(what, response.status, answer, float(wait) if wait.isdecimal() else 0.0)


def _parsed(content: bytes) -> Object:
    """A JSON object.

    Raises:
        ValueError: not one.
    """
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise ValueError(f"no JSON but {content[:SAMPLE]!r}") from None
    if not isinstance(value, dict):
        raise ValueError(f"no object but {type(value).__name__}")
    return value


def _words(error: Exception, timeout_s: tuple[float, float]) -> str:
    """What went wrong, in one line."""
    if type(error) is urllib3.exceptions.ConnectTimeoutError:
        return f"no connection within {timeout_s[0]:g} s"
    if isinstance(error, urllib3.exceptions.ReadTimeoutError | TimeoutError):
        return f"no answer within {timeout_s[1]:g} s"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[: refusal.MESSAGE_MAX]
