"""JSON pushes: which bytes are streams and entries, what Loki bills for them, what is refused.

The sizes in the tables are what Loki v3.7.8 itself says of these bodies (DecodePushRequest of
its pkg/util/unmarshal and its legacy sister, then EntriesTotalSize of pkg/util).
"""

import json
from types import ModuleType

import numpy
import pytest
import twins
from json_scans import LEGACY, V1, outcome, scanned, sizes, split

from sluice import _core, errors, reference_json

Pushes = list[tuple[int, int]]


@pytest.fixture(params=[_core, reference_json], ids=["compiled", "reference"])
def core(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def v1(*entry: bytes) -> bytes:
    return b'{"streams":[{"stream":{"a":"b"},"values":[' + b",".join(entry) + b"]}]}"


def legacy(*entry: bytes) -> bytes:
    return b'{"streams":[{"labels":"{a=\\"b\\"}","entries":[' + b",".join(entry) + b"]}]}"


# rows


def test_a_v1_body_gives_the_raw_ranges_of_streams_labels_and_entries(core: ModuleType) -> None:
    body = b""" {"streams": [
        {"stream": {"app": "x"}, "values": [["1", "hello"], ["2", "you", {"k": "v"}] ]},
        {"values": [], "stream": {}}
    ]} """
    stream, entry = scanned(core, body, V1)
    raw = [body[at:end] for at, end, _ in entry]
    assert raw == [b'["1", "hello"]', b'["2", "you", {"k": "v"}]']
    assert entry[:, 2].tolist() == [5, 5]
    assert [body[row[0] : row[1]] for row in stream] == [
        b'{"stream": {"app": "x"}, "values": [["1", "hello"], ["2", "you", {"k": "v"}] ]}',
        b'{"values": [], "stream": {}}',
    ]
    assert [body[row[3] : row[4]] for row in stream] == [b'{"app": "x"}', b"{}"]
    assert stream[:, 2].tolist() == stream[:, 0].tolist()
    assert stream[:, 5:].tolist() == [[0, 2, 10], [2, 0, 0]]


def test_a_legacy_body_gives_labels_without_their_quotes(core: ModuleType) -> None:
    body = (
        b'{"streams":[{"labels":"{a=\\"b\\"}","entries":[{"ts":"2026-11-22T12:00:00Z","line":"hello"},null]},'
        b'{"entries":[{"line":"x","structuredMetadata":{"k":"v"}}]}]}'
    )
    stream, entry = scanned(core, body, LEGACY)
    assert [body[at:end] for at, end, _ in entry] == [
        b'{"ts":"2026-11-22T12:00:00Z","line":"hello"}',
        b"null",
        b'{"line":"x","structuredMetadata":{"k":"v"}}',
    ]
    assert entry[:, 2].tolist() == [5, 0, 3]
    assert body[stream[0, 3] : stream[0, 4]] == b'{a=\\"b\\"}'
    assert stream[1, 3:5].tolist() == [0, 0]
    assert stream[:, 5:].tolist() == [[0, 2, 5], [2, 1, 3]]


def test_rows_beyond_the_room_are_counted_and_not_written(core: ModuleType) -> None:
    body = b'{"streams":[' + b",".join([b'{"values":[["1","ab"],["2","c"]]}'] * 3) + b"]}"
    stream = numpy.full((3, 8), -1, numpy.int64)
    entry = numpy.full((5, 3), -1, numpy.int64)
    assert core.scan_json(twins.exact(body), V1, stream[:2], entry[:3]) == (3, 6, False)
    assert stream[:, 7].tolist() == [3, 3, -1]
    assert entry[:, 2].tolist() == [2, 1, 2, -1, -1]


def test_parts_are_the_raw_tokens_between_the_quotes() -> None:
    body = v1(b' [ "12" , "a\\nb" , {"k":"v"} ]', b"[]", b'["7"]')
    _, entry = scanned(_core, body, V1)
    parts = [reference_json.json_entry_parts(body, at, end, V1) for at, end, _ in entry.tolist()]
    assert [(body[a:b], body[c:d]) for a, b, c, d in parts] == [
        (b"12", b"a\\nb"),
        (b"", b""),
        (b"7", b""),
    ]
    body = legacy(
        b'{"Line":"old","line":"\\"","TS":"2026-11-22T12:00:00Z","ts":null}',
        b"null",
        b'{"line":null}',
    )
    _, entry = scanned(_core, body, LEGACY)
    parts = [
        reference_json.json_entry_parts(body, at, end, LEGACY) for at, end, _ in entry.tolist()
    ]
    assert [(body[a:b], body[c:d]) for a, b, c, d in parts] == [
        (b"2026-11-22T12:00:00Z", b'\\"'),
        (b"", b""),
        (b"", b""),
    ]


# sizes

REFUSED = None


@pytest.mark.parametrize(
    ("line", "as_v1", "as_legacy", "as_legacy_metadata"),
    [
        (b"", 0, 0, 0),
        (b"plain", 5, 5, 5),
        (rb"\"\\\/\b\f\n\r\t", 8, 8, 8),
        (rb"\u0000\u007F\u0080\u07ff\u0800\uFFFF", 12, 12, 12),
        (rb"\ud83d\ude00", 4, 4, 4),
        ("é😀".encode(), 6, 6, 6),
        (b"\xff\xc3", 2, 2, 6),
        (b"\xed\xa0\x80\xc0\xaf\xf4\x90\x80\x80\xe2\x82", 11, 11, 33),
        (rb"\ud800", REFUSED, 3, 3),
        (rb"\udc00\ud800", REFUSED, 6, 6),
        (rb"\ud800\u0041", REFUSED, 4, 4),
        (rb"\ud800\ud800\udc00", REFUSED, 9, 7),
        (rb"\ud83d\uFFFF", 4, 6, 6),
        (rb"\udfff\udfff", 3, 6, 6),
        (rb"\ud800xxdc00", 4, 9, 9),
        (rb"\ud800\"dc00", 4, 8, 8),
        (rb"\ud800x\fdc0", 4, 8, 8),
        (rb"\ud800\ndc00", 4, 8, 8),
        (rb"\ud800x\bdc0", REFUSED, 8, 8),
        (rb"\ud83d\ude0", REFUSED, REFUSED, REFUSED),
        (rb"\x", REFUSED, REFUSED, REFUSED),
    ],
)
def test_a_string_is_as_long_as_the_parser_that_loki_gives_it_to_makes_it(
    core: ModuleType,
    line: bytes,
    as_v1: int | None,
    as_legacy: int | None,
    as_legacy_metadata: int | None,
) -> None:
    for body, dialect, size in (
        (v1(b'["1","%s"]' % line), V1, as_v1),
        (v1(b'["1","",{"":"%s"}]' % line), V1, as_v1),
        (legacy(b'{"line":"%s"}' % line), LEGACY, as_legacy),
        (legacy(b'{"structuredMetadata":{"":"%s"}}' % line), LEGACY, as_legacy_metadata),
    ):
        if size is REFUSED:
            with pytest.raises(errors.BadPush, match="an escape sequence that Loki refuses"):
                scanned(core, body, dialect)
        else:
            assert sizes(core, body, dialect) == [[size]]


@pytest.mark.parametrize(
    ("metadata", "as_v1", "as_legacy"),
    [
        (b"{}", 0, 0),
        (b'{"a":"bc","a":"d"}', 5, 2),
        (b'{"a":"b","detected_level":"info"}', 2, 2),
        (rb'{"detected\u005flevel":"info"}', 0, 0),
        (b'{"Detected_Level":"x"}', 15, 15),
        (b'{"detected_levels":"x","detected_leve":"x"}', 30, 30),
        (rb'{"a\n":"b","a\u000a":"ccc"}', 8, 5),
        (rb'{"\ud83d\ude00":"b","\ud83d\ude01":"b"}', 10, 10),
        (b'{"\xff":"b","\\ufffd":"cc"}', 7, 5),
        (b"null", REFUSED, 0),
        (b'{"a":null}', REFUSED, 1),
        (b'{"a":1}', REFUSED, REFUSED),
        (b'{"a":{}}', REFUSED, REFUSED),
        (b'["a"]', REFUSED, REFUSED),
    ],
)
def test_metadata_is_billed_as_loki_reads_it(
    core: ModuleType, metadata: bytes, as_v1: int | None, as_legacy: int | None
) -> None:
    for body, dialect, size in (
        (v1(b'["1","",%s]' % metadata), V1, as_v1),
        (legacy(b'{"structuredMetadata":%s}' % metadata), LEGACY, as_legacy),
    ):
        if size is REFUSED:
            with pytest.raises(errors.BadPush, match="of a kind that a push cannot have here"):
                scanned(core, body, dialect)
        else:
            assert sizes(core, body, dialect) == [[size]]


def test_legacy_metadata_knows_128_names_and_bills_later_ones_each_time(core: ModuleType) -> None:
    for names, size in ((128, 128 * 4), (129, 128 * 4 + 2 * 4)):
        pairs = b",".join(b'"%03d":"x"' % i for i in range(names))
        body = legacy(b'{"structuredMetadata":{%s,%s}}' % (pairs, pairs))
        assert sizes(core, body, LEGACY) == [[size]]


@pytest.mark.parametrize(
    ("body", "dialect", "expected"),
    [
        (b"null", V1, []),
        (b"null", LEGACY, []),
        (b"nullx", V1, []),
        (b"{}", V1, []),
        (b'{"streams":null}', V1, []),
        (b'{"streams":[{}]} and what follows "', V1, [[]]),
        (b'{"streams":[{}]}]', LEGACY, [[]]),
        (b'{"STR\\u0065ams":[{"values":[["1","x"]]}]}', V1, [[1]]),
        (b'{"streams":[{"VALUES":[["1","x"]]}]}', V1, [[]]),
        (b'{"streams":[{"v\\u0061lues":[["1","x"]]}]}', V1, [[1]]),
        (
            b'{"streams":[{"ENTRIES":[{"LINE":"x","TS":"2026-11-22T12:00:00Z"}]},null]}',
            LEGACY,
            [[1], []],
        ),
        ('{"streams":[{"entries":[{"lİne":"xy"}]}]}'.encode(), LEGACY, [[2]]),
        ('{"streams":[{"entrİes":[{"line":"xy"}]}]}'.encode(), LEGACY, [[]]),
        (
            b'{"x":[1,{"y":[null,true,-1.5e+3,"\\ud800"]}],"streams":[{"z":{},"values":null}]}',
            V1,
            [[]],
        ),
        (b'{"streams":[{"entries":null},{"labels":null}]}', LEGACY, [[], []]),
        (v1(b"null", b'["1","x"]', b"null"), V1, [[1]]),
        (v1(b'["1","x",{},{"a":7},null,"\\ud800"]'), V1, [[1]]),
        (v1(b"[]", b'["-"]', b'"x]"'), V1, [[0, 0, 0]]),
        (v1(b'["1","x\x01\\n\x02"]'), V1, [[4]]),
        (legacy(b'{"line":"x","a":[{"b":1,null:2}],null:3,"parsed":{"k":"v"}}'), LEGACY, [[1]]),
        (legacy(b"null", b"{}", b'{"line":null,"ts":null}'), LEGACY, [[0, 0, 0]]),
        (legacy(b'{"line":"abc","line":"x"}', b'{"line":"x","line":null}'), LEGACY, [[1, 0]]),
        (legacy(b'{"structuredMetadata":{"a":"b"},"structuredMetadata":{}}'), LEGACY, [[0]]),
        (b'{"streams":[{"stream":"{}"}]}', V1, [[]]),
    ],
)
def test_what_loki_takes_is_taken(
    core: ModuleType, body: bytes, dialect: bool, expected: list[list[int]]
) -> None:
    assert sizes(core, body, dialect) == expected


# repeated keys


def test_of_two_lists_of_values_the_later_one_counts(core: ModuleType) -> None:
    body = b'{"streams":[{"values":[["1","abc"],["2","x"]],"values":[["3","yz"]],"values":null}]}'
    stream, entry = scanned(core, body, V1)
    assert stream[0, 5:].tolist() == [2, 1, 2]
    assert entry[:, 2].tolist() == [3, 1, 2]
    assert split(body, V1) == b'{"streams":[{"values":[["3","yz"]]}]}'


def test_of_two_label_sets_the_later_one_counts() -> None:
    body = b'{"streams":[{"stream":{"a":"1"},"stream":{"b":"2"},"values":[["1","x"]]}]}'
    assert split(body, V1) == b'{"streams":[{"stream":{"b":"2"},"values":[["1","x"]]}]}'


def test_a_second_list_of_streams_is_read_over_the_first_as_loki_does(core: ModuleType) -> None:
    first = b'"streams":[{"stream":{"a":"1"},"values":[["1","abc"]]},{"values":[["2","de"]]}]'
    assert sizes(core, b'{%s,"streams":[{}]}' % first, V1) == [[3]]
    assert sizes(core, b'{%s,"streams":[{},{"values":[]},{}]}' % first, V1) == [[3], [], []]
    assert sizes(core, b'{%s,"streams":[{}],"STREAMS":[{},{}]}' % first, V1) == [[3], [2]]
    assert sizes(core, b'{%s,"streams":[],"streams":[{},{}]}' % first, V1) == [[], []]
    assert sizes(core, b'{%s,"streams":null,"streams":[{}]}' % first, V1) == [[]]
    assert split(b'{%s,"streams":[{"stream":{"b":"2"}}]}' % first, V1) == (
        b'{"streams":[{"stream":{"b":"2"},"values":[["1","abc"]]}]}'
    )


def test_a_second_legacy_list_that_loki_would_mix_with_the_first_replaces_it_and_is_said(
    core: ModuleType,
) -> None:
    body = b'{"streams":[{"entries":[{"line":"x"}],"entries":[{}]}]}'
    assert is_mixed(core, body)
    assert sizes(core, body, LEGACY) == [[0]]
    body = b'{"streams":[{"entries":[{"line":"x"}]}],"streams":[{}]}'
    assert is_mixed(core, body)
    assert sizes(core, body, LEGACY) == [[]]
    body = b'{"streams":[{"entries":[{"line":"x"}],"entries":[]}],"streams":[]}'
    assert not is_mixed(core, body)
    assert sizes(core, body, LEGACY) == []
    body = b'{"streams":[],"streams":[{"entries":[{"line":"x"}],"entries":null,"entries":[{}]}]}'
    assert not is_mixed(core, body)
    assert sizes(core, body, LEGACY) == [[0]]


def is_mixed(core: ModuleType, body: bytes) -> bool:
    room = numpy.zeros((8, 8), numpy.int64), numpy.zeros((8, 3), numpy.int64)
    mixed: bool = core.scan_json(twins.exact(body), LEGACY, *room)[2]
    return mixed


# refusals

ENDS = "the body ends inside a JSON value"
NOT_JSON = "not what JSON allows here"
KIND = "a JSON value of a kind that a push cannot have here"
ESCAPE = "an escape sequence that Loki refuses"


@pytest.mark.parametrize(
    ("body", "at", "words"),
    [
        (b"", 0, ENDS),
        (b" \n", 2, ENDS),
        (b"nul", 0, NOT_JSON),
        (b"\xef\xbb\xbf{}", 0, NOT_JSON),
        (b"[]", 0, KIND),
        (b'"x"', 0, KIND),
        (b"}", 0, NOT_JSON),
        (b"{", 1, ENDS),
        (b"{,}", 1, NOT_JSON),
        (b'{"a":1,}', 7, NOT_JSON),
        (b'{"a" 1}', 5, NOT_JSON),
        (b'{"a":}', 5, NOT_JSON),
        (b'{"a":tru}', 5, NOT_JSON),
        (b'{"a":[1 2]}', 8, NOT_JSON),
        (b'{"a":[1}}', 7, NOT_JSON),
        (b'{"a":"\\q"}', 6, ESCAPE),
        (b'{"a":"\\', 6, ESCAPE),
        (b'{"a":"\\u12', 6, ESCAPE),
        (b'{"a":"b', 7, ENDS),
        (b'{"streams":{}}', 11, KIND),
        (b'{"streams":[', 12, ENDS),
        (b'{"streams":[7]}', 12, KIND),
        (b'{"streams":[{},]}', 15, NOT_JSON),
    ],
)
@pytest.mark.parametrize("dialect", [V1, LEGACY], ids=["v1", "legacy"])
def test_malformed_bodies_are_refused_with_the_place(
    core: ModuleType, body: bytes, at: int, words: str, dialect: bool
) -> None:
    assert twins.unplaced(outcome(core, body, dialect)) == f"byte {at}: {words}"


@pytest.mark.parametrize(
    ("body", "at", "words"),
    [
        (b'{"streams":[null]}', 12, KIND),
        (b'{"streams":[{"stream":null}]}', 22, KIND),
        (b'{"streams":[{"values":{}}]}', 22, KIND),
        (v1(b"7"), 42, KIND),
        (v1(b"{}"), 42, KIND),
        (v1(b'[1,"x"]'), 43, KIND),
        (v1(b'["1",null]'), 47, KIND),
        (v1(b'["1","x",null]'), 51, KIND),
        (v1(b'["1","x",{"a":1}]'), 56, KIND),
        (v1(b'["1","x"'), 51, NOT_JSON),
        (v1(b'["1" "x"]'), 47, NOT_JSON),
        (v1(b'["1","\\ud800"]'), 48, ESCAPE),
    ],
)
def test_v1_bodies_of_another_shape_are_refused_with_the_place(
    core: ModuleType, body: bytes, at: int, words: str
) -> None:
    assert twins.unplaced(outcome(core, body, V1)) == f"byte {at}: {words}"


@pytest.mark.parametrize(
    ("body", "at", "words"),
    [
        (b'{"streams":[{"labels":{}}]}', 22, KIND),
        (b'{"streams":[{"entries":"x"}]}', 23, KIND),
        (legacy(b"[]"), 45, KIND),
        (legacy(b'{"line":7}'), 53, KIND),
        (legacy(b'{"ts":7}'), 51, KIND),
        (legacy(b'{"line":"x"'), 56, NOT_JSON),
    ],
)
def test_legacy_bodies_of_another_shape_are_refused_with_the_place(
    core: ModuleType, body: bytes, at: int, words: str
) -> None:
    assert twins.unplaced(outcome(core, body, LEGACY)) == f"byte {at}: {words}"


@pytest.mark.parametrize(
    ("rest", "place"),
    [
        (b'{"labels":"x","entries":[{"line":"a"},{"line":"b"},{"line":7}]}]}', "stream 1, entry 2"),
        (b'{"labels":"x","entries":[{"line":"a"},7]}]}', "stream 1, entry 1"),
        (b'{"labels":"x","entries":[{"line":"a"}7]}]}', "stream 1"),
        (b'{"labels":7}]}', "stream 1"),
        (b'{"labels":"x"}7]}', ""),
    ],
)
def test_a_refusal_names_stream_and_entry(core: ModuleType, rest: bytes, place: str) -> None:
    first = b'{"streams":[{"labels":"x","entries":[{"line":"a"},{"line":"b"}]},'
    at = len(first) + rest.index(b"7")
    assert outcome(core, first + rest, LEGACY).startswith(f"{place}, byte {at}: ".lstrip(", "))


def test_a_refusal_counts_entries_that_are_null(core: ModuleType) -> None:
    assert outcome(core, v1(b'null,["1",7]'), V1).startswith("stream 0, entry 1, byte ")


@pytest.mark.parametrize(("opener", "closer"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_ends_at_ten_thousand_and_the_stack_does_not(
    core: ModuleType, opener: bytes, closer: bytes
) -> None:
    deepest = b'{"x":' + opener * 10_000 + b"1" + closer * 10_000 + b',"streams":[{}]}'
    assert sizes(core, deepest, V1) == [[]]
    deeper = b'{"x":' + opener * 10_001
    at = 5 + 10_000 * len(opener)
    assert (
        twins.unplaced(outcome(core, deeper, V1)) == f"byte {at}: nested deeper than 10000 levels"
    )
    assert outcome(core, b'{"x":' + opener * 1_000_000, V1) == outcome(core, deeper, V1)


# split


def test_split_leaves_out_entries_and_streams_that_keep_none() -> None:
    body = b""" { "Streams" : [
        {"x": 1, "stream": {"a" : "b"}, "values": [["1","k"] , ["2","l", {"m":"n"}],["3","o"]]},
        {"stream": {"c": "d"}, "values": [ ["4", "p"] ]},
        {"values": [["5", "q"]]}
    ], "y": 2 } z"""
    assert split(body, V1, [0, 3]) == (
        b'{"streams":[{"stream":{"a" : "b"},"values":[["2","l", {"m":"n"}],["3","o"]]},'
        b'{"values":[["5", "q"]]}]}'
    )
    assert split(body, V1, range(5)) == b'{"streams":[]}'
    body = b"""{"streams":[{"entries":[{"line" : "x"}, null], "labels":"{a=\\"b\\"}"},
        {"labels":"", "entries":[{}]}, {"entries":[{},{"line":"y"}]}]}"""
    assert split(body, LEGACY, [0, 3]) == (
        b'{"streams":[{"labels":"{a=\\"b\\"}","entries":[null]},{"labels":"","entries":[{}]},'
        b'{"entries":[{"line":"y"}]}]}'
    )


def test_a_split_body_fits_its_room_where_brackets_are_most_of_it() -> None:
    for streams in (1, 2, 50):
        body = b'{"streams":[' + b",".join([b'{"values":[[],[],[]]}'] * streams) + b"]}"
        assert json.loads(split(body, V1, [1]))["streams"][0] == {"values": [[], []]}
