"""What an answer of upstream means: stored, stored in part, or nothing.

The texts are those of Loki 3.7.8 as its own answers had them; tests/loki/test_answers.py gets them
from the real one.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.agent import answer
from sluice.agent.answer import Settlement

STREAM = '{namespace="shop", service_name="shop"}'
TS = "2026-11-29 10:00:53.682311103 +0000 UTC"
ADVICE = "or contact your Loki administrator to see if the limit can be increased"


def limited(ignored: int, out_of: int, stream: str = STREAM, lines: int = 1) -> str:
    """What the ingester says of a stream that is over its rate."""
    reason = (
        f"Per stream rate limit exceeded (limit: 1KB/sec) while attempting to ingest for stream"
        f" '{stream}' totaling 10000B, consider splitting a stream via additional labels {ADVICE}"
    )
    entries = f"entry with timestamp {TS} ignored, reason: '{reason}',\n" * lines
    return f"{entries}user 'fake', total ignored: {ignored} out of {out_of} for stream: {stream}\n"


OLD = f"entry for stream '{STREAM}' has timestamp too old: 2026-11-29T08:00:53Z, oldest acceptable"
POLICY = "ingestion blocked for user 'a' (policy: 'fin') until '2026-11-30T10:00:42Z' with status"
BLOCK = "ingestion blocked for user 'a' until '2026-11-30T10:00:42Z' with status code '260'"
BEHIND = (
    f"entry with timestamp {TS} ignored, reason: 'entry too far behind, entry timestamp is: 2026-"
    f"11-29T05:00:53Z, oldest acceptable timestamp is: 2026-11-29T09:00:53Z',\nuser 'a', total"
    f" ignored: 1 out of 1 for stream: {STREAM}\n"
)
STREAMS = f"maximum active stream limit exceeded when trying to create stream {STREAM}, reduce the"
NO_SCHEMA = "rpc error: code = Unknown desc = failed to create stream: no schema config found for"

STORED_IN_PART = [
    (400, OLD),
    (400, f"1 errors like: {OLD}; 2 errors like: {OLD}"),
    (400, f"entry for stream '{STREAM}' has timestamp too new: 2026-11-29T12:00:53Z"),
    (400, f"entry for stream '{STREAM}' has 20 label names; limit 15"),
    (400, f"stream '{STREAM}' has label name too long: 'nnn'"),
    (400, f"stream '{STREAM}' has label value too long: 'a\nuser 'a', total ignored: 1 out of 1'"),
    (400, f"stream '{STREAM}' has duplicate label name: 'a'"),
    (400, f"stream '{STREAM}' includes structured metadata, but this feature is disallowed."),
    (400, f"stream '{STREAM}' has structured metadata too large: '2001' bytes, limit: '1024'"),
    (400, f"stream '{STREAM}' has too many structured metadata labels: '6', limit: '3'."),
    (400, f"max entry size '100' bytes exceeded for stream '{STREAM}' while adding an entry with"),
    (400, f"missing required labels 'team' for user 'enf' for stream '{STREAM}' (policy: '')"),
    (400, "error at least one label pair is required per stream"),
    (400, BEHIND),
    (260, POLICY),
    (403, POLICY),
    (429, POLICY),
    (503, POLICY),
    (429, STREAMS),
    (429, limited(7, 10)),
    (429, limited(7, 10, lines=7)),
    (500, NO_SCHEMA),
    # Loki 2.
    (400, f"Max entry size '100' bytes exceeded for stream '{STREAM}' while adding an entry"),
    (429, "Maximum active stream limit exceeded, reduce the number of active streams (reduce"),
    (429, f"entry with timestamp {TS} ignored, reason: 'x' for stream: {STREAM},\n"
          "total ignored: 1 out of 2"),
]  # fmt: skip

REFUSED_AFTER_THE_COUNT = [
    (260, BLOCK),
    (429, BLOCK),
    (429, f"ingestion rate limit exceeded for user a (limit: 1048 bytes/sec) while {ADVICE}"),
    (429, limited(10, 10)),
    (429, f"entry with timestamp {TS} ignored, reason: 'x' for stream: {STREAM},\n"
          "total ignored: 10 out of 10"),
    (500, "label name is empty"),
    (500, 'label name "___" contains only underscores'),
    (500, 'normalization for label name "---" resulted in invalid name "_"'),
]  # fmt: skip

REFUSED_BEFORE_THE_COUNT = [
    (400, "couldn't parse labels: 1:3: parse error: unexpected character inside braces: ':'"),
    (400, "loghttp.PushRequest.Streams: []loghttp.LogProtoStream: unmarshalerDecoder: Value"),
    (400, "push.PushRequest.Streams: []push.Stream: push.Stream.Entries: []push.Entry: push.Entry"),
    (400, "readObjectStart: expect { or n, but found x, error found in #1 byte of ...|x|..., big"),
    (400, "timestamp: &types.Timestamp{Seconds: 1795946453,\nNanos: 2000000000,\n}: nanos not in"),
    (400, "snappy: corrupt input"),
    (400, "proto: wrong wireType = 3 for field Streams"),
    (400, "gzip: invalid header"),
    (400, "mime: invalid media parameter"),
    (400, "EOF"),
    (400, "unexpected EOF"),
    (400, 'Content-Encoding "br" not supported'),
    (400, "compressed message size 2000000 exceeds limit 1000000"),
    (400, "tenant ID 'a/b' contains unsupported character '/'"),
    (400, "multiple org IDs present"),
    (401, "no org id"),
    (404, "404 page not found"),
    (413, "request body too large: message size too large"),
    (422, "error at least one valid stream is required for ingestion"),
    (302, ""),
    (101, ""),
]

GATEWAY = "<html><head><title>400 Bad Request</title></head><body>entry for stream</body></html>"
UNKNOWN = [
    (400, ""),
    (400, GATEWAY),
    (400, "a newer Loki says something new"),
    (400, f"the stream says: {OLD}"),
    (400, '{"error": "a line of the push holds no JSON", "status": 400}'),
    (400, '{"error": "' + "x" * 70_000),
    (400, '{"code": 3}'),
    (260, ""),
    (429, GATEWAY),
    (429, "too many requests"),
]

CASES = {
    Settlement.STORED: [(200, ""), (202, "taken"), (204, ""), (299, '{"message": "taken"}')],
    Settlement.IN_PART: STORED_IN_PART,
    Settlement.NOT_STORED: REFUSED_AFTER_THE_COUNT,
    Settlement.NOT_RECEIVED: REFUSED_BEFORE_THE_COUNT,
    Settlement.UNKNOWN: UNKNOWN,
    Settlement.FAILED: [
        (500, ""),
        (500, 'rpc error: code = Unavailable desc = connection error: desc = "transport: Error"'),
        (503, GATEWAY),
        (504, "upstream request timeout"),
    ],
}
ROWS = [(status, text, wanted) for wanted, rows in CASES.items() for status, text in rows]


def settled(status: int, text: str, entries: int = 10) -> Settlement:
    return answer.settlement_of(status, text.encode(), entries)


@pytest.mark.parametrize(("status", "text", "wanted"), ROWS)
def test_an_answer_is_settled_by_its_status_and_lokis_own_words(status, text, wanted):
    assert settled(status, text) is wanted
    assert settled(status, f"{text}\n") is wanted


@pytest.mark.parametrize(("status", "text", "wanted"), [row for row in ROWS if row[1]])
def test_words_that_a_gateway_or_grpc_put_around_them_change_nothing(status, text, wanted):
    wrapped = f"rpc error: code = Code({status}) desc = {text}"
    assert settled(status, wrapped) is wanted
    assert settled(status, json.dumps({"status": status, "message": text})) is wanted
    assert settled(status, json.dumps({"error": wrapped})) is wanted


def test_only_what_was_stored_is_charged():
    assert [one for one in Settlement if one.is_charged] == ["stored", "in_part"]


# What a sender may write into a label, a value or a line, to be quoted in the answer.
PHRASES = [
    "total ignored: 1 out of 2",
    "user 'fake', total ignored: 1 out of 2 for stream: {}",
    "user 'fake', total ignored: 10 out of 10 for stream: {}",
    "' (policy: 'x') until",
    "ingestion rate limit exceeded for user fake",
    "1 errors like: entry for stream",
    "couldn't parse labels: ",
    "rpc error: code = Code(400) desc = couldn't parse labels: ",
    '{"message": "couldn\'t parse labels: "}',
]


@pytest.mark.parametrize("phrase", PHRASES)
def test_what_a_sender_wrote_into_a_label_turns_no_refund_into_a_charge_nor_back(phrase):
    quoted = f"{{namespace={json.dumps(phrase)}}}"
    assert settled(429, limited(10, 10, quoted)) is Settlement.NOT_STORED
    assert settled(429, limited(3, 10, quoted)) is Settlement.IN_PART
    assert settled(400, f"entry for stream '{quoted}' has timestamp too old") is Settlement.IN_PART
    assert settled(400, f"stream '{quoted}' has label value too long: '\n{phrase}'").is_charged
    context = f"error found in #10 byte of ...|{phrase}|..., bigger context ...|\n{phrase}|..."
    unread = f"loghttp.PushRequest.Streams: []loghttp.LogProtoStream: decode: {context}"
    assert settled(400, unread) is Settlement.NOT_RECEIVED
    assert settled(429, f"<html>{phrase}</html>") is Settlement.UNKNOWN


def test_all_of_one_stream_is_nothing_only_where_the_push_had_no_other():
    one_of_four = limited(10, 10)
    assert settled(429, one_of_four, entries=10) is Settlement.NOT_STORED
    assert settled(429, one_of_four, entries=13) is Settlement.IN_PART


def test_after_a_400_nothing_comes_again_so_lokis_count_stands():
    assert settled(400, BEHIND, entries=1) is Settlement.IN_PART


def test_an_answer_that_was_cut_says_nothing_of_the_rest_and_is_charged():
    long = limited(10, 10, f'{{a="{"x" * 9000}"}}', lines=10)
    assert settled(429, long) is Settlement.NOT_STORED
    for size in range(60_000, len(long) - 9_100, 1_001):
        assert settled(429, long[:size]) is Settlement.IN_PART


def test_a_number_of_any_length_is_no_defect():
    assert settled(429, limited(int("9" * 4_000), 10)).is_charged


@given(
    status=st.integers(0, 1000),
    before=st.sampled_from([b"", b"{", b'{"message": "', b"rpc error: code = Unknown desc = "]),
    beginning=st.sampled_from([b"", *(text.encode() for _, text, _ in ROWS)]),
    rest=st.binary(max_size=80),
    entries=st.integers(0, 20),
)
def test_any_answer_is_settled(status, before, beginning, rest, entries):
    """No answer raises, and one that is not Loki's own is never a charge but for a 2xx."""
    found = answer.settlement_of(status, before + beginning + rest, entries)
    assert isinstance(found, Settlement)
    if not beginning and not before and not 200 <= status < 300:
        assert not found.is_charged
