"""Usage comes up: what this node counted, told to the cluster as NodeLogUsage/<node>.

Reports are absolute, so one that is lost, repeated or late does no harm, and an object has one
writer. What it tells is the ledger less `folded`: what earlier objects still have of this ledger.

Rule 1: an answer that does not come leaves open whether the report arrived; before anything else
the object is read again.
Rule 2: a starting agent takes the object over from the pod that wrote it. An agent that finds its
object taken over goes on under an object of its own, NodeLogUsage/<node>.<pod uid>, and reports
there what the new pod did not take.
Rule 3: nothing is ever made smaller. Where the object has more than the ledger, the ledger lacks
something and takes it from there.
Rule 4: what a lost object had is reported again. It is lost unless a ledger object names its uid.

Threads: run() is one, final() comes after it; others may ask uncovered() and read the attributes.
"""

import contextlib
import functools
import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sluice import ledger, nodeusage, pace, window
from sluice.agent import contents, due, earlier, elsewhere, saved, windows
from sluice.kube import client

log = logging.getLogger("sluice.agent")

TICK_S = 0.2
BACKOFF_S, BACKOFF_MAX_S = 1.0, 30.0
TRIES = 4
# How often to look whether the cluster still has what earlier objects of this node held.
PROOF_S = 600.0
# How long a controller may take to write a ledger object again that was deleted.
BOOKLESS_S = 60.0


class NotYet(Exception):
    """The object of this node's past is still being folded."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An acknowledged increase that a team's status does not cover yet.

    Attributes:
        since: when that was last so (monotonic). revision: of the report.
        covered: what the status covered then. life: which life of the budget it was.
    """

    since: float
    revision: int
    covered: int
    life: int


class Api(Protocol):
    """What a reporter needs of kube.client.Api."""

    def identity(self) -> client.Identity: ...
    def node_usage(self, name: str) -> dict[str, Any] | None: ...
    def create_node_usage(self, obj: dict[str, Any]) -> dict[str, Any]: ...
    def put_node_usage_status(self, obj: dict[str, Any]) -> dict[str, Any]: ...


class Reporter:
    """Tells the cluster what this node counted.

    Args:
        book: what is reported. Nothing may have been counted into it yet by this process.
        others: is told which reports arrived.
        state: what must outlast this process.
        node, instance: the object's name, and the pod that writes it.
        clock, monotonic: seconds since the epoch; seconds that only grow.

    Attributes:
        name: of the object that this process writes.
        acknowledged_at: by `monotonic`, when the cluster last showed that it has this node's
            counts; None before the first time.
        counters: reports by result, for /metrics.
        complaint: why the last try failed, or "".
        forbidden_s: how many seconds lie between the first and the last of the reports in a row
            that the API server answered with 403. None if it took a report of this process, or
            the last one had another end.
    """

    def __init__(
        self,
        api: Api,
        book: ledger.Ledger,
        others: elsewhere.Elsewhere,
        state: saved.Reported,
        *,
        node: str,
        instance: str,
        settings: pace.Pace,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._api, self._book, self._others, self._state = api, book, others, state
        self._node, self._instance = node, instance
        self._extra = f"{node}.{instance}"
        self.name = self._extra if state.name == self._extra else node
        self._clock, self._monotonic, self._rng = clock, monotonic, rng
        self._contents = contents.Contents(book)
        self._due = due.Due(book, others, settings, rng)
        self._object: dict[str, Any] | None = None
        # What the ledger had before this process; None once the object was compared with it.
        self._inherited: ledger.Counted | None = self._contents.all()
        self._has_met = bool(state.uid)
        if self._has_met:
            others.inherit(self._inherited)
            if not state.instance and not nodeusage.beyond(state.acked, self._inherited):
                # The object was taken over, and then not written. What it gets since comes on top.
                self._inherited = {name: dict(teams) for name, teams in state.acked.items()}
        # The most that statuses may still count of this node, until the next report is in.
        self._shown = self._contents.all() if self._has_met else {}
        self._has_sent = False
        # The pod that the object was taken over from, and the number of its last report.
        self._took: dict[str, Any] | None = None
        self._proofs_at = monotonic()
        self._bookless_at: float | None = None
        self._lock = threading.Lock()
        self._uncovered: dict[str, Waiting] = {}
        self._failures, self._not_before = 0, float("-inf")
        self.acknowledged_at: float | None = None
        self.counters = {"acknowledged": 0, "conflict": 0, "refused": 0, "unanswered": 0}
        self.complaint = ""
        self.forbidden_s: float | None = None
        self._forbidden_at = 0.0
        self._may_report = False

    def run(self, stopping: threading.Event) -> None:
        """Report until told to stop."""
        while not stopping.wait(TICK_S):
            self.tick()

    def tick(self) -> None:
        """Report if it is time to."""
        now = self._monotonic()
        if now < self._not_before or self._book.rules is None:
            return
        if self._object is None or self._due.is_due(now, self._state.acked):
            self._attempt(final=False)

    def final(self) -> bool:
        """The last report of a process that will admit nothing more; whether it arrived."""
        return self._book.rules is not None and self._attempt(final=True)

    def uncovered(self, now: float, wait: float) -> frozenset[str]:
        """The teams of which an acknowledged increase is in no status, `wait` seconds after it."""
        found = set()
        with self._lock:
            for key, waiting in list(self._uncovered.items()):
                reached = self._others.revision(key)
                if reached >= waiting.revision or self._others.life(key) != waiting.life:
                    del self._uncovered[key]
                elif reached > waiting.covered:
                    # Behind, but it moves.
                    self._uncovered[key] = replace(waiting, since=now, covered=reached)
                elif now - waiting.since > wait:
                    found.add(key)
        return frozenset(found)

    def _attempt(self, *, final: bool) -> bool:
        """Try to report; whether it was acknowledged. After a failure the next try waits longer."""
        complaint, wait_s = f"{TRIES} tries met somebody else's write", 0.0
        try:
            for _ in range(TRIES):
                if self._report(final=final):
                    self._failures, self.complaint = 0, ""
                    return True
        except NotYet as wait:
            complaint = str(wait)
        except client.ApiError as error:
            self.counters["unanswered" if isinstance(error, client.Unreachable) else "refused"] += 1
            complaint, wait_s = error.message, error.retry_after_s
            self._note_end(error)
        self.complaint = complaint
        backoff_s = min(BACKOFF_MAX_S, 2 * BACKOFF_S * 2 ** min(self._failures, 5))
        # Half of it sure, half by chance: never longer than said, never all nodes at once.
        wait_s = min(BACKOFF_MAX_S, max(2 * wait_s, backoff_s)) * (1 + self._rng()) / 2
        if self._failures in (0, 4):
            log.warning("this node's usage is not reported: %s", self.complaint)
        self._failures += 1
        self._not_before = self._monotonic() + wait_s
        return False

    def _note_end(self, error: client.ApiError) -> None:
        """Note whether this process may report at all."""
        is_denied = isinstance(error, client.Forbidden) and not isinstance(
            error, client.Terminating
        )
        if self._may_report or not is_denied:
            # An API server that is away, or a CRD being deleted, says nothing of our rights.
            self.forbidden_s = None
            return
        now = self._monotonic()
        if self.forbidden_s is None:
            self._forbidden_at = now
        self.forbidden_s = now - self._forbidden_at

    def _report(self, *, final: bool) -> bool:
        """One report; False where the object is another than we thought: try again."""
        node_usage = self._object if self._object is not None else self._adopt()
        self._look_for_proofs()
        told = self._book.changes
        counted = self._contents.to_tell(self._state.acked, self._clock())
        status = {
            "instance": self._instance,
            "seq": (node_usage.get("status") or {}).get("seq", 0) + 1,
            "reportedAt": window.iso(self._clock()),
            "final": final,
            **({"tookOver": self._took} if self._took else {}),
            **self._contents.status(nodeusage.beyond(counted, self._state.folded), self._clock()),
        }
        self._state.send(counted, status["seq"])
        self._has_sent = True
        self._others.sending(counted)
        self._object = None
        try:
            answer = self._api.put_node_usage_status({**node_usage, "status": status})
        except (client.Conflict, client.NotFound) as error:
            self._state.did_not_arrive()
            self.counters["conflict"] += 1
            log.info("report: %s", error.message)
            return False
        except client.Invalid as error:
            self._state.did_not_arrive()
            # Never forced. It knows of more than the ledger does, which _adopt() mends.
            log.error("the API server refused this node's report: %s", error.message)
            self.counters["refused"] += 1
            return False
        except client.Unreachable:
            # Whether it arrived, the object says: _adopt().
            raise
        except client.ApiError:
            self._object = node_usage
            self._state.did_not_arrive()
            self._others.lost()
            raise
        self.counters["acknowledged"] += 1
        self._object, self._shown = answer, {}
        self._may_report, self.forbidden_s = True, None
        self._acknowledged(answer, counted, self._instance)
        self._inherited = None
        self._due.reported(self._monotonic(), told)
        return True

    def _adopt(self) -> dict[str, Any]:
        """Read this node's object, or make it, and settle what is not known.

        Raises:
            NotYet, client.ApiError.
        """
        found = self._api.node_usage(self.name)
        if found is not None and self._is_deposed(found):
            found = self._step_aside(found)
        if found is None:
            owner = self._api.identity().node_uid
            found = self._api.create_node_usage(nodeusage.new(self._node, owner, self.name))
            log.info("created NodeLogUsage/%s", self.name)
        if found["metadata"].get("uid", "") != self._state.uid:
            self._begin(found["metadata"].get("uid", ""))
        status = found.get("status") or {}
        writer = status.get("instance", "")
        if writer == self._instance:
            self._took = status.get("tookOver")
        elif writer:
            log.info("taking NodeLogUsage/%s over from pod %s", self.name, writer)
            self._took = {"instance": writer, "seq": status.get("seq", 0)}
        theirs = nodeusage.plus(nodeusage.counted(status), self._state.folded)
        # The ledger then takes both into account at once.
        self._has_met |= writer == self._instance
        is_own = writer in ("", self._instance, self._state.instance) or self._is_older(status)
        if writer == self._instance and self._has_sent:
            self._inherited = None
        self._acknowledged(found, theirs, writer if is_own else "")
        self._catch_up(theirs, is_own=is_own)
        if nodeusage.is_folding(found):
            raise NotYet(f"NodeLogUsage/{self.name} is being folded")
        return found

    def _is_deposed(self, found: dict[str, Any]) -> bool:
        """Whether a pod that does not know this ledger has taken the object over."""
        status, state = found.get("status") or {}, self._state
        if status.get("instance", "") in ("", self._instance, state.instance):
            return False
        has_written = bool(state.instance) and not self._is_older(status)
        return has_written or any(one.name == self.name and not one.uid for one in state.earlier)

    def _is_older(self, status: dict[str, Any]) -> bool:
        """Whether the object is as it was before our last report: from a backup."""
        return bool(self._state.instance) and status.get("seq", 0) <= self._state.seq

    def _step_aside(self, found: dict[str, Any]) -> dict[str, Any] | None:
        """Leave the object to the pod that took it over; returns this pod's own, if it is there."""
        state, took = self._state, found["status"].get("tookOver") or {}
        is_known = took.get("instance") == state.instance
        is_same = found["metadata"].get("uid", "") == state.uid
        if state.uid and (state.name or self._node) == self.name and (is_known or is_same):
            # Whether the last report had arrived by then is known of the pod that came next.
            arrived = not is_known or took.get("seq", 0) >= state.sent_seq
            if arrived:
                self._others.arrived()
            handed = earlier.Earlier(self.name, "", state.own(with_sent=arrived))
            state.begin(self._extra, "", [*state.earlier, handed])
        log.warning(
            "pod %s writes NodeLogUsage/%s now: this one goes on as %s",
            found["status"]["instance"], self.name, self._extra,
        )  # fmt: skip
        self.name = self._extra
        return self._api.node_usage(self.name)

    def _begin(self, uid: str) -> None:
        """Begin with another object: what is lost of those before it is reported again."""
        proofs, state = earlier.Proofs(self._api), self._state
        before = list(state.earlier)
        self._shown = functools.reduce(
            lambda a, b: nodeusage.combined(a, b, max), (state.acked, state.sent, self._shown)
        )
        if state.uid:
            name = state.name or self._node
            last = proofs.last_report(name, state.uid)
            # Not known, as an older controller says it: nothing must be told twice.
            arrived = last is None or last >= state.sent_seq
            if arrived:
                self._others.arrived()
            own = state.own(with_sent=arrived)
            before += [earlier.Earlier(name, state.uid, own)] if own else []
        state.begin(self.name, uid, self._not_lost(before, proofs))

    def _look_for_proofs(self) -> None:
        """See now and then whether the cluster still has what earlier objects of this node held."""
        if self._monotonic() - self._proofs_at < PROOF_S:
            return
        with contextlib.suppress(NotYet):
            kept = self._not_lost(self._state.earlier, earlier.Proofs(self._api))
            if kept != self._state.earlier:
                self._state.keep(kept)

    def _not_lost(
        self, before: list[earlier.Earlier], proofs: earlier.Proofs
    ) -> list[earlier.Earlier]:
        """What the cluster still has of earlier objects.

        Raises:
            NotYet: a ledger object is lost, and the controller may be about to write it again.
        """
        now = self._monotonic()
        kept = proofs.kept(before, window.open_windows("UTC", self._clock()))
        was_proven = any(one in self._state.earlier and one not in kept for one in before)
        if kept != before and (was_proven or not proofs.has_books):
            self._bookless_at = now if self._bookless_at is None else self._bookless_at
            if now - self._bookless_at < BOOKLESS_S:
                raise NotYet("no ledger object says what became of this node's earlier counts")
        for one in before:
            if one not in kept:
                log.error("NodeLogUsage/%s (%s) is lost: reporting it again", one.name, one.uid)
        self._bookless_at, self._proofs_at = None, now
        return kept

    def _catch_up(self, theirs: ledger.Counted, *, is_own: bool) -> None:
        """Take into the ledger what the object has and the ledger lacks.

        The first time it is compared with what was there when the process began: what has been
        counted since comes on top. In a new directory everything does.

        Args:
            is_own: with this ledger the object was written last.
        """
        if not self._has_met:
            self._inherited, self._has_met = {}, True
        had = self._inherited
        if had is None:
            had = self._contents.all()
        utc = window.open_windows("UTC", self._clock())
        for name, teams in nodeusage.beyond(theirs, had).items():
            if windows.is_near(utc, *window.parse_key(name)):
                for key, values in teams.items():
                    log.warning("%s: %d bytes of %s are on record, not here", key, values[0], name)
                    self._book.add(key, {name: values})
                    # Not once more, should the next one fail.
                    had.setdefault(name, {})[key] = theirs[name][key]
        # Until this pod has written, the other one may go on, and all of that comes on top.
        self._inherited = None if is_own else had

    def _acknowledged(
        self, node_usage: dict[str, Any], counted: ledger.Counted, instance: str
    ) -> None:
        """The cluster has `counted`, as of `node_usage`, which `instance` wrote."""
        metadata = node_usage["metadata"]
        revision, now = int(metadata["resourceVersion"]), self._monotonic()
        if self.acknowledged_at is not None:
            self._note_increases(counted, revision, now)
        self.acknowledged_at = now
        self._others.reported(revision, nodeusage.combined(counted, self._shown, max))
        seq = (node_usage.get("status") or {}).get("seq", 0)
        self._state.acknowledge(metadata.get("uid", ""), counted, instance, seq)

    def _note_increases(self, counted: ledger.Counted, revision: int, now: float) -> None:
        """Note which teams' statuses have to change for what was acknowledged now."""
        with self._lock:
            for name, teams in counted.items():
                for key, (size, *_) in teams.items():
                    before = nodeusage.size_of(self._state.acked, name, key)
                    if size > before and self._others.is_awaited(key, name):
                        life, reached = self._others.life(key), self._others.revision(key)
                        waiting = self._uncovered.get(key)
                        if waiting is None or waiting.life != life:
                            waiting = Waiting(now, revision, reached, life)
                        self._uncovered[key] = replace(waiting, revision=revision)
