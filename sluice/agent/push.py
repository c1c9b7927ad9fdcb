"""A push: judge, forward, settle.

Rule 1: a push that Sluice refuses charges nothing, is counted by reason, and now and then logged.
Rule 2: what upstream answers, the shipper sees, status and text; see exchange.py.
Rule 3: an unexpected exception is a defect of ours: 500, logged, counted, nothing charged.
"""

import logging
import time
from collections.abc import Callable

from sluice import api, errors, gate, hosts, metrics
from sluice.agent import exchange, upstream, via
from sluice.agent.request import Request, forwarded
from sluice.wire import loki

log = logging.getLogger("sluice.agent")

PATHS = (upstream.PUSH_PATH, upstream.LEGACY_PATH)
# One line in so many seconds says what was refused: a shipper sends the same again and again.
TELL_EVERY_S = 10.0
AGENT_SHOWN = 200


class PushHandler:
    """Answers pushes.

    Args:
        note_progress: called when a push has got further.

    Threads: any number.
    """

    def __init__(
        self,
        door: gate.Gate,
        sender: exchange.Sender,
        counters: metrics.PushMetrics,
        clock: Callable[[], float],
        note_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._gate, self._sender, self._counters = door, sender, counters
        self._clock, self._note_progress = clock, note_progress
        self._quiet_until = 0.0
        self._via = via.Via()

    def __call__(self, request: Request) -> upstream.Reply:
        """The answer to a push; never raises."""
        try:
            return self._handle(request)
        except errors.SluiceError as error:
            return self.refuse(request, error)
        except Exception as error:
            self._counters.broken()
            log.exception("POST %s failed", request.path)
            return refusal(f"internal error: {type(error).__name__}", 500)

    def refuse(self, request: Request, error: errors.SluiceError) -> upstream.Reply:
        """The answer to a push that is not taken; counts it, and logs what a shipper must mend."""
        self._counters.refused(error)
        now = time.monotonic()
        if error.status < 500 and now >= self._quiet_until:
            self._quiet_until = now + TELL_EVERY_S
            log.warning(
                "refused a push of %s, user agent %r: %s",
                request.peer,
                request.first("user-agent")[:AGENT_SHOWN],
                error.message,
            )
        return refusal(error.message, error.status)

    def _handle(self, request: Request) -> upstream.Reply:
        # Before anything is reserved: from there on, whatever is raised must give it back.
        target, fields = request.target, request.fields()
        content_type = fields.get("content-type", "")
        # Loki reads all but JSON as protobuf, so a page's text/plain would spend a budget.
        hosts.check_unasked(
            content_type, fields.get("origin"), fields.get("sec-fetch-site"), fields.get("host", "")
        )
        dialect = loki.dialect_of(content_type or None, target)
        encoding = fields.get("content-encoding", "")
        headers = forwarded(fields, request.peer)
        self._via.add_to(headers)
        judged = self._gate.push(request.body, encoding, now=self._clock(), dialect=dialect)
        self._note_progress()
        if judged.body is None:
            judged.commit()
            return upstream.Reply(204)
        if judged.encoding:
            headers["content-encoding"] = judged.encoding
        return exchange.forward(judged, judged.body, target, headers, self._sender, self._counters)


def refusal(message: str, status: int) -> upstream.Reply:
    """Our own answer instead of upstream's."""
    return upstream.Reply(
        status, api.error_body(message, status), "application/json", api.retry_after(status)
    )
