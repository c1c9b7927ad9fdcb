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
from asyncio import CancelledError
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from sluice import errors, memory, metrics
from sluice.agent import evaluate, inline, places, push, upstream, wsgi
from sluice.agent.request import Request

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

log = logging.getLogger("sluice.agent")

MIB = 2**20
PROBES = frozenset(("/ready", "/api/health"))
# A body may take BODY_S, a second more for each LEAST_RATE bytes that have arrived, and no longer
# than BODY_MAX_S; and it may not pause for longer than BODY_S.
BODY_S, LEAST_RATE, BODY_MAX_S = 10.0, 64 * 1024, 120.0
LOOK_S = 0.5
# Bodies being received at a time; one peer may have a quarter, of these and of the memory.
BODIES_MAX, PEER_SHARE = 1024, 4
# A declared body of up to this size is taken from the memory and received in one piece: in parts, a
# push of 1 MiB takes 15 % more CPU.
WHOLE_MAX = 1024 * 1024
# A body that is too large is read to its end nevertheless, within these bounds: a shipper that is
# cut off in the middle sees a broken connection instead of 413, and sends it again.
DRAIN_MAX, DRAIN_S = 64 * MIB, 5.0
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


class Body:
    """A body being received, and what it holds until its request is answered."""

    __slots__ = ("began", "deadline", "held", "is_late", "limit", "peer", "received", "task")

    def __init__(self, peer: str, limit: int) -> None:
        self.peer, self.limit, self.began = peer, limit, time.monotonic()
        self.deadline = self.began + BODY_S
        self.task = inline.current()
        self.received = self.held = 0
        self.is_late = False

    def note(self, size: int) -> None:
        """A part has arrived; the deadline moves with it."""
        self.received += size
        allowed = min(BODY_MAX_S, BODY_S + self.received / LEAST_RATE)
        self.deadline = min(self.began + allowed, time.monotonic() + BODY_S)


class Stream:
    """The parts of a body, in as many loops as one likes.

    The server's own iterator is for one loop only: asked for another, it finds the body taken.
    """

    __slots__ = ("_next",)

    def __init__(self, protocol: Any) -> None:
        self._next: Callable[[], Awaitable[bytes]] = aiter(protocol).__anext__

    def __aiter__(self) -> "Stream":
        return self

    def __anext__(self) -> Awaitable[bytes]:
        return self._next()


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
        self._pushes, self._memory, self._max_body = pushes, room, max_body
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
        self._lock = threading.Lock()
        self._bodies: set[Body] = set()
        self._of_peer: Counter[str] = Counter()
        self._held_by: Counter[str] = Counter()
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
        body: Body | None = None
        try:
            self._check_open()
            if self._pushes.is_stuck:
                raise self._pushes.full()
            body = await self._receive(request, protocol, self._max_body)
            waiter = self._pushes.enter()
            if waiter is not None:
                await waiter
            try:
                respond(protocol, self._handler(request))
            finally:
                self._pushes.leave()
        except errors.SluiceError as error:
            respond(protocol, self._handler.refuse(request, error))
        finally:
            if body is not None:
                self._give(body)
            self._counters.push_took(time.perf_counter() - began)

    async def _other(self, request: Request, protocol: Any) -> None:
        is_probe = request.path in PROBES
        room = self._probes if is_probe else self._others
        body: Body | None = None
        try:
            if not is_probe:
                self._check_open()
            is_call = request.path in evaluate.PATHS
            limit = min(self._max_body, evaluate.BODY_MAX) if is_call else self._max_body
            body = await self._receive(request, protocol, limit, keep=is_call)
            waiter = room.enter()
            if waiter is not None:
                await waiter
            try:
                answer = wsgi.ask(self._site, request, self._port)
                protocol.response_bytes(answer.status, answer.headers, answer.body)
            finally:
                room.leave()
        except errors.SluiceError as error:
            self._counters.refused(error)
            respond(protocol, push.refusal(error.message, error.status))
        finally:
            if body is not None:
                self._give(body)

    def _check_open(self) -> None:
        if self._is_stopping:
            raise errors.Unavailable("this process is stopping")

    # bodies

    async def _receive(
        self, request: Request, protocol: Any, limit: int, *, keep: bool = True
    ) -> Body | None:
        """Receive the request's body; returns what it holds, for _give(), or None.

        Raises:
            TooLarge, BadPush, Unavailable: it is too large, is cut short, or is too slow or finds
                no room. It holds nothing any more.
        """
        declared = declared_length(request)
        if declared == 0:
            return None
        if declared is not None and declared > limit:
            await self._drain(request, protocol)
            raise errors.TooLarge(f"a body of {declared} bytes, at most {limit} are taken")
        body = Body(request.peer, limit)
        self._enter(body)
        try:
            try:
                request.body = await self._whole(body, protocol, declared, keep)
            finally:
                self._leave(body)
        except CancelledError:
            self._give(body)
            if not body.is_late:
                raise
            raise errors.Unavailable(
                f"the body was too slow: {body.received} bytes in"
                f" {time.monotonic() - body.began:.0f} s"
            ) from None
        except BaseException:
            self._give(body)
            raise
        return body

    async def _whole(self, body: Body, protocol: Any, declared: int | None, keep: bool) -> bytes:
        if not keep or declared is None or declared > WHOLE_MAX:
            return await self._parts(body, protocol, declared, keep)
        body.deadline += declared / LEAST_RATE
        self._take(body, declared)
        try:
            found: bytes = await protocol()
        except RuntimeError:
            # granian's ProtocolClosed.
            raise errors.BadPush(
                f"the connection ended before all {declared} bytes of the body were there"
            ) from None
        return found

    async def _parts(self, body: Body, protocol: Any, declared: int | None, keep: bool) -> bytes:
        parts: list[bytes] = []
        ends = 0
        stream = Stream(protocol)
        async for part in stream:
            if not part:
                ends += 1
                continue
            body.note(len(part))
            if keep:
                self._take(body, len(part))
                parts.append(part)
            if body.received > body.limit:
                parts.clear()
                self._free(body)
                await drain(stream, body)
                raise errors.TooLarge(
                    f"a body of more than {body.limit} bytes, at most {body.limit} are taken"
                )
            if body.received == declared:
                break
        if declared is not None and body.received < declared:
            raise errors.BadPush(f"the body ends after {body.received} of {declared} bytes")
        if declared is None and ends != 1:
            # A second end stands for a connection that was cut, or for trailer fields.
            raise errors.BadPush(
                f"the chunked body ends after {body.received} bytes without its last chunk,"
                " or has trailer fields"
            )
        if len(parts) == 1:
            return parts[0]
        # Twice in memory for a moment.
        self._memory.take(len(parts) and body.received)
        try:
            return b"".join(parts)
        finally:
            self._memory.give(len(parts) and body.received)

    async def _drain(self, request: Request, protocol: Any) -> None:
        """Read a body that is not wanted, so that the sender sees why."""
        body = Body(request.peer, 0)
        self._enter(body)
        try:
            await drain(Stream(protocol), body)
        finally:
            self._leave(body)

    def _enter(self, body: Body) -> None:
        peer = body.peer
        with self._lock:
            if len(self._bodies) >= BODIES_MAX:
                raise errors.Unavailable(f"{BODIES_MAX} bodies are being received, no more are")
            if self._of_peer[peer] >= BODIES_MAX // PEER_SHARE:
                raise errors.Unavailable(
                    f"{self._of_peer[peer]} bodies of {peer} are being received, no more are"
                )
            self._of_peer[peer] += 1
            self._bodies.add(body)

    def _leave(self, body: Body) -> None:
        """The body is not being received any more: its peer's share is free again."""
        with self._lock:
            self._bodies.remove(body)
            less(self._of_peer, body.peer, 1)
            less(self._held_by, body.peer, body.held)

    def _take(self, body: Body, size: int) -> None:
        share = max(self._memory.total // PEER_SHARE, self._max_body)
        self._memory.take(size)
        with self._lock:
            body.held += size
            self._held_by[body.peer] += size
            held = self._held_by[body.peer]
        if held > share:
            raise errors.Unavailable(
                f"bodies of {body.peer} that are being received hold {held} bytes,"
                f" at most {share} are allowed"
            )

    def _free(self, body: Body) -> None:
        """Give back what a body holds that is still being received."""
        with self._lock:
            less(self._held_by, body.peer, body.held)
            self._give(body)

    def _give(self, body: Body) -> None:
        """Give back what the body of an answered request holds."""
        self._memory.give(body.held)
        body.held = 0

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
                self._let_go(now)
            if any(looks):
                time.sleep(places.LOOK_S)
            else:
                self._wake.wait(LOOK_S)
                self._wake.clear()

    def _let_go(self, now: float) -> None:
        """Receive no longer what is late; at a stop, anything."""
        with self._lock:
            # Claimed while it is among the bodies: a moment later it may wait for a place, and
            # would be given one that it never gives back. One between two parts has its turn
            # the next time.
            late = [
                body
                for body in self._bodies
                if (body.deadline < now or self._is_stopping) and body.task.claim()
            ]
        for body in late:
            body.is_late = True
            body.task.interrupt()


def less(counts: Counter[str], key: str, size: int) -> None:
    """Lower a count, which goes when it is 0."""
    counts[key] -= size
    if not counts[key]:
        del counts[key]


async def drain(stream: Stream, body: Body) -> None:
    """Read what is left of a body that is not wanted, unless it is too much or too slow."""
    body.deadline = time.monotonic() + DRAIN_S
    size = 0
    try:
        async for part in stream:
            size += len(part)
            if size > DRAIN_MAX:
                return
    except CancelledError:
        if not body.is_late:
            raise


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


def declared_length(request: Request) -> int | None:
    """The length of the body; None: it comes in chunks.

    Raises:
        BadPush: it is in a transfer coding that Sluice cannot undo.
    """
    length = 0
    for name, value in request.headers:
        if name == "transfer-encoding":
            if value is None or value.strip().lower() != "chunked":
                raise errors.BadPush(f"Transfer-Encoding {value!r}: only chunked is supported")
            return None
        # The server has seen to it that it is a number, and the same if it stands twice.
        if name == "content-length" and value is not None:
            length = int(value)
    return length
