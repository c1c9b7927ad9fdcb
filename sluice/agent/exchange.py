"""Forwards what is left of a push, and settles it by upstream's answer."""

import socket
import time
from collections.abc import Mapping
from typing import Protocol

from sluice import errors, judgement, metrics
from sluice.agent import answer, upstream
from sluice.wire import loki


class Sender(Protocol):
    """Whoever takes pushes: upstream.Upstream, or a stand-in."""

    def send(self, target: str, body: loki.Body, headers: Mapping[str, str]) -> upstream.Reply:
        """Send one push; raises Unavailable where there is no answer."""


class BadUpstream(errors.SluiceError):
    """Upstream answered a push with what is no answer to one."""

    status = 502


def forward(
    judged: judgement.Judgement,
    body: loki.Body,
    target: str,
    headers: Mapping[str, str],
    sender: Sender,
    counters: metrics.PushMetrics,
) -> upstream.Reply:
    """Send what is left of a push, and commit or refund it by the answer.

    Args:
        target: path and query as the push came in.

    Raises:
        Unavailable: upstream gave no answer. BadUpstream: it gave one that ends no push.
        In both cases the push was refunded.
    """
    size = judged.sent_bytes
    try:
        began = time.perf_counter()
        try:
            reply = sender.send(target, body, headers)
        finally:
            counters.upstream_took(time.perf_counter() - began)
        entries = judged.sent_entries if reply.body else 0
        settlement = answer.settlement_of(reply.status, reply.body, entries)
    except BaseException as error:
        counters.upstream_answered("none")
        counters.settled.add(without_answer(error), size)
        judged.refund()
        raise
    counters.upstream_answered(str(reply.status))
    counters.settled.add(settlement, size)
    if settlement.is_charged:
        judged.commit(rejected=settlement is answer.Settlement.IN_PART)
    else:
        judged.refund()
    check_answer(reply.status)
    return reply


def without_answer(error: BaseException) -> answer.Settlement:
    """Return how a push is settled that ended in `error`: nothing reaches a closed port."""
    is_unsent = isinstance(error.__cause__, (ConnectionRefusedError, socket.gaierror))
    if is_unsent or not isinstance(error, errors.Unavailable):
        return answer.Settlement.NOT_RECEIVED
    return answer.Settlement.UNANSWERED


def check_answer(status: int) -> None:
    """See that upstream's answer is one for the shipper.

    Raises:
        BadUpstream: it is none to pass on.
    """
    if 300 <= status < 400:
        # Followed, a redirect would lead the shipper past its budget.
        raise BadUpstream(f"upstream answered {status}: give its final URL to Sluice")
    if not 200 <= status < 600:
        raise BadUpstream(f"upstream answered {status}, which ends no push")
