"""The agent's application without a server before it, and with an upstream in memory behind it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import shippers
import werkzeug.datastructures
import werkzeug.test
from harness import budget
from prometheus_client.parser import text_string_to_metric_families
from shippers import Entry, Push, Stream

from sluice import Budget, Gate, usage
from sluice.agent import app, upstream
from sluice.agent.request import Request

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
OUTCOMES = ("forwarded", "sampled", "dropped", "refused")
NONE = {"entries": 0, "bytes": 0}


@dataclass
class Sender:
    """An upstream that answers what it is told to, and remembers what it got."""

    reply: upstream.Reply = field(default_factory=lambda: upstream.Reply(204))
    sent: list[tuple[str, bytes, Mapping[str, str]]] = field(default_factory=list)

    def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> upstream.Reply:
        self.sent.append((path, body, headers))
        return self.reply


class Front:
    """The application without a server before it, on a clock that stands still."""

    def __init__(self, budgets: Sequence[Mapping[str, Any]], sender: Any = None, **more: Any):
        self.gate = Gate([Budget.from_manifest(one) for one in budgets])
        self.sender = Sender() if sender is None else sender
        more.setdefault("evaluates", True)
        made = app.create_app(self.gate, self.sender, clock=lambda: NOON, **more)
        self.pushes, self.client = made.pushes, made.site.test_client()

    def send(
        self,
        push: Push,
        headers: Mapping[str, str] | Sequence[tuple[str, str | None]] = (),
        peer: str = "127.0.0.1",
    ) -> werkzeug.test.TestResponse:
        """The answer to a push whose body has arrived; further headers come after the push's."""
        path, _, query = push.path.partition("?")
        more = headers.items() if isinstance(headers, Mapping) else headers
        sent = [(name.lower(), value) for name, value in (*push.headers.items(), *more)]
        sent.append(("content-length", str(len(push.body))))
        reply = self.pushes(Request("POST", path, query, sent, peer, push.body))
        named = {"Content-Type": reply.content_type, "Retry-After": reply.retry_after}
        found = werkzeug.datastructures.Headers([(n, value) for n, value in named.items() if value])
        asked = werkzeug.test.EnvironBuilder(path).get_request()
        return werkzeug.test.TestResponse([reply.body], str(reply.status), found, asked)

    def counts(self, key: str) -> dict[str, dict[str, int]]:
        return usage.counts(self.gate.ledger.usage([key], NOON)[key].counts)

    def call(self, path: str, call: Any) -> werkzeug.test.TestResponse:
        body = call if isinstance(call, bytes) else json.dumps(call).encode()
        return self.client.post(path, data=body, content_type="application/json")

    def samples(self) -> list[Any]:
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        return [sample for family in families for sample in family.samples]

    def sample(self, name: str, **labels: str) -> float:
        (found,) = (s for s in self.samples() if s.name == name and labels == s.labels)
        return found.value

    def is_untouched(self) -> bool:
        found = self.gate.ledger.usage(["", "shop/shop"], NOON).values()
        return not any(any(one.counts) for one in found) and not self.gate.ledger.used.any()


def error_of(response: werkzeug.test.TestResponse) -> str:
    """The words of a JSON error, which has to be one."""
    assert response.content_type == "application/json"
    assert set(response.json) == {"error", "status"}
    assert response.json["status"] == response.status_code
    assert (response.headers.get("Retry-After") == "1") == (response.status_code == 503)
    words: str = response.json["error"]
    return words


SHOP = budget("shop", 10_000, throttle={"sampleRate": 0})
PUSH = shippers.promtail([Stream({"namespace": "shop", "app": "a"}, [Entry(1, "0123456789")])])
