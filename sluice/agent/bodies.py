"""Receives the bodies of requests, within bounds that hold for slow and hostile senders."""

import threading
import time
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from typing import Any

from sluice import errors, memory
from sluice.agent import inline
from sluice.agent.request import Request
from sluice.wire import loki

MIB = 2**20
# A body may take BODY_S, a second more for each LEAST_RATE bytes that have arrived, and no longer
# than BODY_MAX_S; and it may not pause for longer than BODY_S.
BODY_S, LEAST_RATE, BODY_MAX_S = 10.0, 64 * 1024, 120.0
# Bodies being received at a time; one peer may have a quarter, of these and of the memory.
BODIES_MAX, PEER_SHARE = 1024, 4
# A declared body of up to this size takes its memory at once and is received in one piece: in
# parts, a push of 1 MiB takes 15 % more CPU. It has the time that it would take at LEAST_RATE.
# Not 4 MiB: the server holds more than the body while it puts the pieces together, and 420 MiB
# were resident in tests/attack, where 400 are allowed and 1 MiB makes 290.
WHOLE_MAX = MIB
KIND = "body"
# A body that is too large is read to its end nevertheless, within these bounds: a shipper that is
# cut off in the middle sees a broken connection instead of 413, and sends it again.
DRAIN_MAX, DRAIN_S = 64 * MIB, 5.0


class Body:
    """A body being received, and what it holds until its request is answered."""

    __slots__ = (
        "began",
        "buffer",
        "claim",
        "deadline",
        "held",
        "is_late",
        "limit",
        "peer",
        "received",
        "task",
    )

    def __init__(self, peer: str, limit: int, claim: memory.Claim) -> None:
        self.peer, self.limit, self.began = peer, limit, time.monotonic()
        self.claim = claim
        # Where it is received in parts.
        self.buffer: loki.Scratch | None = None
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


class Bodies:
    """All bodies that are being received.

    Args:
        room: the memory that pushes share.
        max_body: bytes that the largest may have.

    Threads: any number.
    """

    def __init__(self, room: memory.Memory, max_body: int) -> None:
        self._memory = room
        self._share = max(room.total // PEER_SHARE, max_body)
        self._lock = threading.Lock()
        self._bodies: set[Body] = set()
        # By peer: its bodies, and the bytes that they hold.
        self._of_peer: dict[str, int] = {}
        self._held_by: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._bodies)

    async def receive(
        self, request: Request, protocol: Any, limit: int, *, keep: bool = True
    ) -> Body | None:
        """Receive the request's body; returns what it holds, for give(), or None.

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
        body = Body(request.peer, limit, memory.Claim(self._memory))
        self._enter(body)
        try:
            try:
                request.body = await self._whole(body, protocol, declared, keep)
            finally:
                self._leave(body)
        except CancelledError:
            self.give(body)
            if not body.is_late:
                raise
            raise errors.Unavailable(
                f"the body was too slow: {body.received} bytes in"
                f" {time.monotonic() - body.began:.0f} s"
            ) from None
        except BaseException:
            self.give(body)
            raise
        return body

    async def _whole(
        self, body: Body, protocol: Any, declared: int | None, keep: bool
    ) -> loki.Body:
        if not keep or declared is None or declared > WHOLE_MAX:
            return await self._parts(body, protocol, declared, keep)
        body.deadline += declared / LEAST_RATE
        body.claim.take(declared)
        self._hold(body, declared)
        try:
            found: bytes = await protocol()
        except RuntimeError:
            # granian's ProtocolClosed.
            raise errors.BadPush(
                f"the connection ended before all {declared} bytes of the body were there"
            ) from None
        return found

    async def _parts(
        self, body: Body, protocol: Any, declared: int | None, keep: bool
    ) -> loki.Body:
        ends = 0
        stream = Stream(protocol)
        async for part in stream:
            if not part:
                ends += 1
                continue
            body.note(len(part))
            if keep:
                self._append(body, part)
            if body.received > body.limit:
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
        if body.buffer is None:
            return b""
        body.buffer.part.used(body.received)
        return body.buffer.view(body.received)

    async def _drain(self, request: Request, protocol: Any) -> None:
        """Read a body that is not wanted, so that the sender sees why."""
        body = Body(request.peer, 0, memory.Claim(self._memory))
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
            of_peer = self._of_peer.get(peer, 0)
            if of_peer >= BODIES_MAX // PEER_SHARE:
                raise errors.Unavailable(
                    f"{of_peer} bodies of {peer} are being received, no more are"
                )
            self._of_peer[peer] = of_peer + 1
            self._bodies.add(body)

    def _leave(self, body: Body) -> None:
        """The body is not being received any more: its peer's share is free again."""
        with self._lock:
            self._bodies.remove(body)
            less(self._of_peer, body.peer, 1)
            less(self._held_by, body.peer, body.held)

    def _append(self, body: Body, part: bytes) -> None:
        """Write a part that has been received behind those before it."""
        if body.buffer is None:
            body.buffer = body.claim.lend(KIND) or loki.Scratch()
            body.buffer.part.begin(body.claim)
        body.buffer.write(body.received - len(part), part)
        self._hold(body, len(part))

    def _hold(self, body: Body, size: int) -> None:
        with self._lock:
            body.held += size
            self._held_by[body.peer] = held = self._held_by.get(body.peer, 0) + size
        if held > self._share:
            raise errors.Unavailable(
                f"bodies of {body.peer} that are being received hold {held} bytes,"
                f" at most {self._share} are allowed"
            )

    def _free(self, body: Body) -> None:
        """Give back what a body holds that is still being received."""
        with self._lock:
            less(self._held_by, body.peer, body.held)
            self.give(body)

    def give(self, body: Body) -> None:
        """Give back what the body of an answered request holds; it is not read any more."""
        buffer, body.buffer, body.held = body.buffer, None, 0
        if buffer is not None and buffer.part.held <= memory.PART_BYTES:
            body.claim.end(0, KIND, buffer, buffer.part.held)
        else:
            body.claim.keep(0)

    def let_go(self, now: float, *, of_all: bool) -> None:
        """Receive no longer what is late; `of_all`, anything."""
        with self._lock:
            # Claimed while it is among the bodies: a moment later it may wait for a place, and
            # would be given one that it never gives back. One between two parts has its turn
            # the next time.
            late = [
                body
                for body in self._bodies
                if (body.deadline < now or of_all) and body.task.claim()
            ]
        for body in late:
            body.is_late = True
            body.task.interrupt()


def less(counts: dict[str, int], key: str, size: int) -> None:
    """Lower a count, which goes when it is 0."""
    left = counts.get(key, 0) - size
    if left:
        counts[key] = left
    else:
        counts.pop(key, None)


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
