"""Classify upstream's answer to a push: what Loki received and stored, and so what is charged.

Loki reads a whole push, adds it to loki_distributor_bytes_received_total (the bytes that it
bills), and only then checks limits and stores. A refusal before the count costs nothing. A refusal
of single entries or streams comes after the count, and the rest of the push is stored: the whole
push is charged, as Loki counts it. See docs/decisions/0008.

A text is recognised by how it begins, where the words are Loki's own: further on it quotes
labels, values and bytes that a sender chose. The paths below are those of Loki 3.7.8 in pkg/;
spellings of Loki 2 are taken too.
"""

import enum
import re
from typing import NamedTuple

import orjson


class Settlement(enum.StrEnum):
    """How the charge of a push that was sent upstream ends, and why."""

    STORED = "stored"
    """Charged: upstream stored it."""
    IN_PART = "in_part"
    """Charged and counted as rejected: upstream received all and stored a part."""
    NOT_STORED = "not_stored"
    """Refunded: upstream counts it as received, and stored nothing."""
    NOT_RECEIVED = "not_received"
    """Refunded: upstream refused it before it counted."""
    UNKNOWN = "unknown"
    """Refunded: a refusal in words that are not known to be Loki's."""
    FAILED = "failed"
    """Refunded: 5xx. Upstream may have counted it, and may have stored it."""
    UNANSWERED = "unanswered"
    """Refunded: no answer. Upstream may have stored it; shippers send it again."""

    @property
    def is_charged(self) -> bool:
        """Whether the push is usage."""
        return self in (Settlement.STORED, Settlement.IN_PART)


class Row(NamedTuple):
    """A text of Loki: how it begins, what it means, and the file that writes it."""

    beginning: re.Pattern[bytes]
    settlement: Settlement
    source: str


def row(beginning: bytes, settlement: Settlement, source: str) -> Row:
    """A row; the pattern ignores case, because Loki 2 begins some texts with a capital."""
    return Row(re.compile(beginning, re.IGNORECASE), settlement, source)


IN_PART, NOT_STORED = Settlement.IN_PART, Settlement.NOT_STORED
NOT_RECEIVED, UNKNOWN = Settlement.NOT_RECEIVED, Settlement.UNKNOWN

# Of a tenant's name: it has no spaces (dskit tenant/tenant.go).
USER = rb"'?[^ ]*'?"
# What the ingester says of a stream: a line for each of its first ten entries that are ignored, and
# a last one, which Loki 2 ends at the numbers. Labels are quoted as in Go: without line ends.
IGNORED = rb"(?:user " + USER + rb", )?total ignored: (\d{1,18}) out of (\d{1,18})"
OF_A_STREAM = rb"entry with timestamp |" + IGNORED
ROWS = (
    # After the count; what is not named is stored.
    row(rb"\d+ errors(?: like)?: ", IN_PART, "util/errors.go"),
    row(rb"entry for stream '", IN_PART, "distributor/validator.go"),
    row(rb"stream '\{", IN_PART, "distributor/validator.go"),
    row(rb"max entry size '?\d", IN_PART, "distributor/validator.go"),
    row(rb"missing required labels ", IN_PART, "distributor/distributor.go"),
    row(rb"error at least one label pair is required", IN_PART, "distributor/validator.go"),
    row(rb"error parsing labels '", IN_PART, "distributor/distributor.go"),
    row(rb"ingestion blocked for user " + USER + rb" \(policy: ", IN_PART,
        "distributor/validator.go"),
    row(rb"maximum active stream limit exceeded", IN_PART, "ingester/instance.go"),
    row(OF_A_STREAM, IN_PART, "ingester/stream.go"),
    # One stream older than the schema; the push's other streams are stored, time and again.
    row(rb"failed to create stream: ", IN_PART, "ingester/instance.go"),
    # After the count; nothing is stored.
    row(rb"ingestion blocked for user " + USER + rb" until ", NOT_STORED,
        "distributor/validator.go"),
    row(rb"ingestion rate limit exceeded ", NOT_STORED, "distributor/distributor.go"),
    # A name of structured metadata that has no letter or digit.
    row(rb"label name is empty", NOT_STORED, "distributor/distributor.go"),
    row(rb'label name "', NOT_STORED, "distributor/distributor.go"),
    row(rb'normalization for label name "', NOT_STORED, "distributor/distributor.go"),
    # Before the count.
    row(rb"couldn't parse labels: ", NOT_RECEIVED, "loghttp/push/push.go"),
    row(rb"(?:loghttp|push)\.PushRequest\.", NOT_RECEIVED, "util/unmarshal/unmarshal.go"),
    row(rb"[\w.*\[\]]+: [^|]*error found in #\d+ byte of ", NOT_RECEIVED,
        "util/unmarshal/unmarshal.go"),
    row(rb"timestamp: &types\.Timestamp", NOT_RECEIVED, "push/timestamp.go"),
    row(rb"(?:proto|snappy|gzip|flate|mime): ", NOT_RECEIVED, "loghttp/push/push.go"),
    row(rb"(?:unexpected )?EOF\s*\Z", NOT_RECEIVED, "loghttp/push/push.go"),
    row(rb'Content-Encoding "', NOT_RECEIVED, "loghttp/push/push.go"),
    row(rb"compressed message size ", NOT_RECEIVED, "loghttp/push/push.go"),
    row(rb"(?:request body|message size) too large", NOT_RECEIVED, "loghttp/push/push.go"),
    row(rb"error at least one valid stream ", NOT_RECEIVED, "distributor/distributor.go"),
    row(rb"tenant ID ", NOT_RECEIVED, "dskit tenant/tenant.go"),
    row(rb"multiple org IDs present", NOT_RECEIVED, "dskit tenant/resolver.go"),
    row(rb"no org id", NOT_RECEIVED, "dskit user/id.go"),
)  # fmt: skip

BLOCKED = 260
# The refusals that Loki gives after the count, besides 5xx.
AMBIGUOUS = (BLOCKED, 400, 429)
LAST_LINE = re.compile(IGNORED + rb"(?: for stream: |\s*\Z)")
# What gRPC puts before an error that passed from the ingester to the distributor.
WRAPPED = re.compile(rb"(?:rpc error: code = \w+(?:\(\d+\))? desc = ){1,4}")


def settlement_of(status: int, text: bytes, entries: int) -> Settlement:
    """Return how a push that upstream answered so is settled.

    Where the text leaves it open, a push is charged if Loki counted it, so that what is sent
    again does not escape a budget, and is refunded if Loki may not have seen it.

    Args:
        text: the answer's body, which may be cut.
        entries: how many were sent.
    """
    # What Loki says to nearly every push, without a text.
    if status == 204:
        return Settlement.STORED
    said = without_wrapping(text) if text else b""
    found = next((row for row in ROWS if row.beginning.match(said)), None) if said else None
    if found is None:
        return by_status(status)
    # After a 400 a push does not come again: then the count of Loki stands.
    if found.source == "ingester/stream.go" and status != 400 and is_all_ignored(said, entries):
        return Settlement.NOT_STORED
    return found.settlement


def by_status(status: int) -> Settlement:
    """Return what a status says by itself."""
    if 200 <= status < 300 and status != BLOCKED:
        return Settlement.STORED
    if status in AMBIGUOUS:
        return Settlement.UNKNOWN
    return Settlement.FAILED if status >= 500 else Settlement.NOT_RECEIVED


def is_all_ignored(text: bytes, entries: int) -> bool:
    """Return whether the stream that the text is about was all of the push, and none is stored.

    The text is about the last stream only: the others of a push may be stored.
    """
    text = text.rstrip()
    found = LAST_LINE.match(text, text.rfind(b"\n") + 1)
    if found is None:
        # Cut, or in other words.
        return False
    ignored, out_of = int(found[1]), int(found[2])
    return ignored == out_of >= entries


def without_wrapping(text: bytes) -> bytes:
    """Return Loki's own words: gateways put them into JSON, gRPC puts words before them."""
    text = text.lstrip()
    if text.startswith(b"{"):
        text = json_message(text)
    wrapped = WRAPPED.match(text)
    return text[wrapped.end() :] if wrapped else text


def json_message(text: bytes) -> bytes:
    """Return the message of an error in JSON, b"" if there is none."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return b""
    for name in ("message", "error"):
        if isinstance(message := found.get(name), str):
            return message.lstrip().encode()
    return b""
