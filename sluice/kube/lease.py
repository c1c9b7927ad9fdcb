"""One leader among the replicas, and none that does not know it has lost.

A Lease object names its holder and says for how long; the holder renews it, the others wait until
they have seen no change for that long. Nobody compares clocks: each measures with its own
monotonic one, from what it did or saw.

    leader        |- renews --------- deadline: gone
    the others         |- see it ------------------------ lease ends: take over

Rule 1: a leader counts from before it sent the renewal, the others from after they saw it, and
its deadline is shorter than the lease. Hence never two, if clocks run alike.
Rule 2: gone means that the process ends, for a thread cannot be stopped. A watchdog that waits
for nobody sees to it: a call that hangs, or a log that blocks, holds only its own thread.
Rule 3: the lease is given back when the work has ended, not when it is asked to end.

The package has LeaseLock and LeaderElection. Measured on 37.0.2, a leader in a black hole led on
for 14 s after its lease, for its calls have no time-out; on a refused connection the election
ends and the work goes on. It measures with the wall clock, cannot be asked to stop, never gives
a lease back and counts no transitions. What would be left of it is less than this.
"""

import datetime
import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from sluice.kube import client

log = logging.getLogger(__name__)

# Who does not lead asks a dead API server less and less often, down to once in so many retries.
IDLE_RETRIES = 5
# Of the deadline: a renewal that hangs leaves time for another.
CALL_SHARE = 1 / 3
# What a lease that was given back says: there is no shorter one.
RELEASED_S = 1


def exit_at_once() -> NoReturn:
    """End the process as if it had been killed: nothing is cleaned up, for that could hang."""
    os._exit(1)


@dataclass(frozen=True, slots=True)
class State:
    """Who leads, as far as is known here, and how often that has changed."""

    is_leader: bool = False
    holder: str = ""
    transitions: int = 0


def lead(api: client.Api, **settings: Any) -> None:
    """Wait for leadership, do the work, give the lease back; see `Election`."""
    Election(api=api, **settings).run()


@dataclass(kw_only=True, eq=False)
class Election:
    """A candidate for the Lease `namespace/name`, which is made if it is not there.

    Args:
        identity: names this process, and no other that may live at the same time.
        work: what the leader does, in a thread of its own. It ends soon after `stopping` is set.
        stopping: ends the waiting; a leader renews its lease until the work has ended.
        lease_s, deadline_s, retry_s: others take over after the first, a leader is gone after the
            second, and asks each third. Whole seconds for the first: Lease knows no others.
        die: ends the process.
        on_state: called with every new state, in the thread of `run`.

    Threads: `run` in one; any may read `state`.
    """

    api: client.Api
    name: str
    namespace: str
    identity: str
    work: Callable[[], object]
    stopping: threading.Event
    lease_s: float = 15.0
    deadline_s: float = 10.0
    retry_s: float = 2.0
    die: Callable[[], None] = exit_at_once
    on_state: Callable[[State], None] = lambda state: None
    clock: Callable[[], float] = time.monotonic
    rng: Callable[[], float] = random.random
    state: State = field(default=State(), init=False)

    def __post_init__(self) -> None:
        if not self.retry_s < self.deadline_s < self.lease_s:
            raise ValueError(f"not {self.retry_s} < {self.deadline_s} < {self.lease_s} seconds")
        call_s = self.deadline_s * CALL_SHARE
        self._timeout_s = (min(client.CALL_S[0], call_s), min(client.CALL_S[1], call_s))
        # The Lease as we wrote it last; None: it has to be read.
        self._lease: client.Object | None = None
        # The version seen last, and when it was first seen.
        self._seen, self._seen_at = "", 0.0
        # When the last renewal was sent that came through.
        self._renewed_at = 0.0
        self._misses = 0
        # Set when the work has ended, or the lease was lost.
        self._ended = threading.Event()
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Wait for the lease, do the work, give the lease back.

        Returns when the work has ended, or on `stopping`. What the work raises is raised here.
        """
        while not self.stopping.is_set():
            if self._attempt():
                self._lead()
                return
            self.stopping.wait(self._pause_s())

    def _lead(self) -> None:
        log.info("leading: the lease %s/%s is ours", self.namespace, self.name)
        for target in (self._watch_over, self._do_work):
            threading.Thread(target=target, name=f"leader {target.__name__}", daemon=True).start()
        while not self._ended.wait(self._pause_s()):
            self._attempt()
        self._give_back()
        if self._failure is not None:
            raise self._failure

    def _do_work(self) -> None:
        try:
            self.work()
        # Raised again by the thread that waits for the end.
        except BaseException as failure:
            self._failure = failure
        self._ended.set()

    def _watch_over(self) -> None:
        """End the process once the last renewal is too old.

        Silently, for a log that blocks would keep a lost leader alive; what goes wrong is logged
        where it begins.
        """
        while not self._ended.is_set():
            left_s = self._renewed_at + self.deadline_s - self.clock()
            if left_s <= 0:
                self._lose()
            self._ended.wait(max(left_s, 0))

    def _lose(self) -> None:
        self.die()
        # Who gets here has a `die` that does not.
        self._show(self.state.holder, is_leader=False)
        self._ended.set()

    def _attempt(self) -> bool:
        """Take the lease, or renew it; whether that was done."""
        begun = self.clock()
        try:
            lease = self._lease or self._look()
            if lease is None:
                self._lease = self.api.create_lease(self._claim({}), self._timeout_s)
            elif self._is_free(lease):
                self._lease = self.api.put_lease(self._claim(lease), self._timeout_s)
            else:
                self._concede(lease)
                return False
        except client.ApiError as error:
            # What there is now has to be seen first: perhaps just what was written.
            self._lease = None
            self._complain(error)
            return False
        self._misses = 0
        self._renewed_at = begun
        self._show(self.identity, is_leader=True)
        return True

    def _look(self) -> client.Object | None:
        """The Lease as it is now; notes when it was first seen so."""
        lease = self.api.lease(self.namespace, self.name, self._timeout_s)
        version = str(lease["metadata"]["resourceVersion"]) if lease is not None else ""
        if version != self._seen:
            self._seen, self._seen_at = version, self.clock()
        return lease

    def _is_free(self, lease: client.Object) -> bool:
        """Whether we may take it: nobody's, ours, or not renewed for as long as it says."""
        spec = lease.get("spec", {})
        if spec.get("holderIdentity", "") in ("", None, self.identity):
            return True
        lasts_s = spec.get("leaseDurationSeconds") or self.lease_s
        return self.clock() - self._seen_at >= lasts_s

    def _concede(self, lease: client.Object) -> None:
        """Somebody else leads."""
        self._misses = 0
        spec = lease["spec"]
        if self.state.is_leader:
            self._lose()
        self._show(spec["holderIdentity"], False, spec.get("leaseTransitions") or 0)

    def _claim(self, lease: client.Object) -> client.Object:
        """The Lease with us as its holder from now on."""
        spec = lease.get("spec", {})
        now = _now()
        is_ours = spec.get("holderIdentity") == self.identity
        transitions = (spec.get("leaseTransitions") or 0) + (bool(lease) and not is_ours)
        return self._with(
            lease,
            holderIdentity=self.identity,
            leaseDurationSeconds=math.ceil(self.lease_s),
            leaseTransitions=transitions,
            acquireTime=spec.get("acquireTime", now) if is_ours else now,
            renewTime=now,
        )

    def _give_back(self) -> None:
        """Let the others take over at once."""
        if not self.state.is_leader:
            return
        try:
            lease = self._lease or self._look()
            if lease is not None and lease["spec"].get("holderIdentity") == self.identity:
                free = self._with(
                    lease,
                    holderIdentity="",
                    leaseDurationSeconds=RELEASED_S,
                    renewTime=_now(),
                )
                self.api.put_lease(free, self._timeout_s)
        except client.ApiError as error:
            log.info("the lease %s/%s is left to end: %s", self.namespace, self.name, error.message)
        self._show("", is_leader=False)

    def _with(self, lease: client.Object, **spec: Any) -> client.Object:
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": lease.get("metadata") or {"name": self.name, "namespace": self.namespace},
            "spec": {**lease.get("spec", {}), **spec},
        }

    def _show(self, holder: str, is_leader: bool, transitions: int | None = None) -> None:
        """Publish who leads."""
        if transitions is None:
            spec = (self._lease or {}).get("spec", {})
            transitions = spec.get("leaseTransitions", self.state.transitions)
        state = State(is_leader, holder, transitions)
        if state != self.state:
            self.state = state
            self.on_state(state)

    def _complain(self, error: client.ApiError) -> None:
        """Say what is wrong, once until it is well again."""
        self._misses += 1
        # A Conflict is another candidate that was faster.
        if self._misses == 1 and not isinstance(error, client.Conflict):
            end = f"; without it this process ends within {self.deadline_s:g} s"
            log.warning("lease: %s%s", error.message, end if self.state.is_leader else "")

    def _pause_s(self) -> float:
        """Until the next try: the same for all of a leader's, longer and longer for others."""
        retries = 1 if self.state.is_leader else min(2 ** min(self._misses, 10), IDLE_RETRIES)
        return self.retry_s * retries * (0.8 + 0.4 * self.rng())


def _now() -> str:
    """The wall clock, which people read in the Lease and nobody computes with."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
