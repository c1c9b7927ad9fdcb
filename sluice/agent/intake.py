"""The HTTP of the agent: receives requests, and answers each in a place when it is whole.

    push          received, then one of the places for pushes for as long as upstream takes
    /ready, /api/health   a place of their own: they wait for nothing else
    all the rest  received, then one of the spare places

A sender that is slow, or never finishes, takes no place and no thread. Its body has a deadline,
its peer has a share, and its bytes come from the memory that all pushes share.
"""

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from sluice import errors, memory, metrics
from sluice.agent import bodies, evaluate, inline, places, push, upstream, wsgi
from sluice.agent.request import Request

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

log = logging.getLogger("sluice.agent")

PROBES = frozenset(("/ready", "/api/health"))
LOOK_S = 0.5
# How long a push waits for a place while others get on, and how long another request does.
PUSH_WAIT_S, OTHER_WAIT_S, OTHERS_MAX = 0.1, 10.0, 256
PROBE_PLACES = 2
SPARE_MIN = 2


def threads_for(threads: int, max_in_flight: int) -> int:
    """How many threads the server needs: one for each place, and some to receive with."""
    return max_in_flight + spare_places(threads, max_in_flight) + 2 * PROBE_PLACES


def spare_places(threads: int, max_in_flight: int) -> int:
    """How many requests that are no pushes may be at work."""
    return max(SPARE_MIN, threads - max_in_flight)


class Intake:
    """The RSGI application.

    Args:
        handler: answers pushes; its note_progress is to be `pushes.note_progress`.
        site: answers everything else.
        pushes: places for pushes.
        room: the memory that pushes share.
        max_body: bytes of a body, else 413.
        spare: places for requests that are neither pushes nor probes.
        port: where the server listens.

    Threads: any number.
    """

    def __init__(
        self,
        handler: push.PushHandler,
        site: "WSGIApplication",
        counters: metrics.PushMetrics,
        pushes: places.Places,
        room: memory.Memory,
        *,
        max_body: int,
        spare: int,
        port: int = 0,
    ) -> None:
        self._handler, self._site, self._counters = handler, site, counters
        self._pushes, self._max_body = pushes, max_body
        self._port = port
        self._wake = threading.Event()
        pushes.wake = self._wake.set
        self._others, self._probes = (
            places.Places(
                count,
                wait_s=OTHER_WAIT_S,
                waiting_max=OTHERS_MAX,
                is_patient=True,
                wake=self._wake.set,
            )
            for count in (spare, PROBE_PLACES)
        )
        self._bodies = bodies.Bodies(room, max_body)
        self._busy: set[str] = set()
        self._is_stopping = False
        self.loop: inline.Loop | None = None

    def __rsgi_init__(self, loop: inline.Loop) -> None:
        self.loop = loop
        threading.Thread(target=self._watch, name="deadlines", daemon=True).start()

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        request = received(scope)
        client = scope.client
        self._busy.add(client)
        try:
            if request.path in push.PATHS and request.method == "POST":
                await self._push(request, protocol)
            else:
                await self._other(request, protocol)
        finally:
            self._busy.discard(client)

    @property
    def receiving(self) -> int:
        """How many bodies are being received."""
        return len(self._bodies)

    def is_busy(self, client: str) -> bool:
        """Whether a request of this client, "address:port", is being received or answered."""
        return client in self._busy

    def stop(self, wait_s: float) -> bool:
        """Take no more requests, let those go who have not finished, and wait for the others.

        Returns:
            Whether all have ended.
        """
        self._is_stopping = True
        self._wake.set()
        until = time.monotonic() + wait_s
        while self._busy and time.monotonic() < until:
            time.sleep(0.02)
        return not self._busy

    # a request's way

    async def _push(self, request: Request, protocol: Any) -> None:
        began = time.perf_counter()
        body: bodies.Body | None = None
        try:
            self._check_open()
            if self._pushes.is_stuck(request.peer):
                raise self._pushes.full()
            body = await self._bodies.receive(request, protocol, self._max_body)
            waiter = self._pushes.enter(request.peer)
            if waiter is not None:
                await waiter
            try:
                respond(protocol, self._handler(request))
            finally:
                self._pushes.leave(request.peer)
        except errors.SluiceError as error:
            respond(protocol, self._handler.refuse(request, error))
        finally:
            if body is not None:
                self._bodies.give(body)
            self._counters.push_took(time.perf_counter() - began)

    async def _other(self, request: Request, protocol: Any) -> None:
        is_probe = request.path in PROBES
        room = self._probes if is_probe else self._others
        body: bodies.Body | None = None
        try:
            if not is_probe:
                self._check_open()
            is_call = request.path in evaluate.PATHS
            limit = min(self._max_body, evaluate.BODY_MAX) if is_call else self._max_body
            body = await self._bodies.receive(request, protocol, limit, keep=is_call)
            waiter = room.enter(request.peer)
            if waiter is not None:
                await waiter
            try:
                answer = wsgi.ask(self._site, request, self._port)
                protocol.response_bytes(answer.status, answer.headers, answer.body)
            finally:
                room.leave(request.peer)
        except errors.SluiceError as error:
            self._counters.refused(error)
            respond(protocol, push.refusal(error.message, error.status))
        finally:
            if body is not None:
                self._bodies.give(body)

    def _check_open(self) -> None:
        if self._is_stopping:
            raise errors.Unavailable("this process is stopping")

    # time

    def _watch(self) -> None:
        """Let go of bodies that are past their deadline, and of requests that wait too long."""
        due = 0.0
        while True:
            # All of them are to be looked after, not the first ones only.
            looks = [room.look() for room in (self._pushes, self._others, self._probes)]
            now = time.monotonic()
            if now >= due or self._is_stopping:
                due = now + LOOK_S
                self._bodies.let_go(now, of_all=self._is_stopping)
            if any(looks):
                time.sleep(places.LOOK_S)
            else:
                self._wake.wait(LOOK_S)
                self._wake.clear()


def respond(protocol: Any, reply: upstream.Reply) -> None:
    """Send a reply."""
    headers = []
    if reply.body:
        headers.append(("content-type", reply.content_type or "text/plain"))
    if reply.retry_after:
        headers.append(("retry-after", reply.retry_after))
    protocol.response_bytes(reply.status, headers, reply.body)


def received(scope: Any) -> Request:
    """The request that the server has received the head of."""
    headers = scope.headers
    found: list[tuple[str, str | None]] = headers.items()
    # A value that is no ASCII text is not among them.
    names: list[str] = headers.keys()
    if unreadable := [(name, None) for name in names if headers.get(name) is None]:
        found = [*unreadable, *found]
    # A URL with a slash at its end and the path put together: seen often.
    path = "/" + scope.path.lstrip("/")
    peer = scope.client.rpartition(":")[0].strip("[]")
    return Request(scope.method, path, scope.query_string, found, peer)
