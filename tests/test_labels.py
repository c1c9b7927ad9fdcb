"""Label text means here what it means to Loki."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.wire import labels

A = {"a": "b"}

# Verified against Loki 3.7.8's syntax.ParseLabels (which is Prometheus' ParseMetric without
# empty values), each row. Of a name that Loki keeps twice the first is expected here.
METRICS: list[tuple[bytes, dict[str, str] | None]] = [
    (b"", {}),
    (b"{}", {}),
    (b" { } ", {}),
    (b'{a="b"}', A),
    (b'{a="b",}', A),
    (b'{a = "b" , c\t=\r\n"d"}', {"a": "b", "c": "d"}),
    (b'{A1_="x", _="y"}', {"A1_": "x", "_": "y"}),
    (b"{,}", None),
    (b'{a="b",,}', None),
    (b'{a="b" c="d"}', None),
    (b'{a="b"', None),
    (b'{a="b', None),
    (b'{a="b"}x', None),
    (b'{a="b"} ;', None),
    (b'{a="b"}{c="d"}', None),
    (b'a="b"', None),
    (b"{a}", None),
    (b"{a=}", None),
    (b'{="b"}', None),
    (b'{a "b"}', None),
    (b"{a=b}", None),
    (b"{a=1}", None),
    (b'{1a="b"}', None),
    (b'{a:b="c"}', None),
    (b'{a.b="c"}', None),
    ('{é="c"}'.encode(), None),
    (b'{a=~"b"}', None),
    (b'{a!="b"}', None),
    (b'\xef\xbb\xbf{a="b"}', None),
    (b'{a="b"}\x00', None),
    # quotes
    (b"{a='b'}", A),
    (b"{a=`b`}", A),
    (b"{a=`b\nc`}", {"a": "b\nc"}),
    (b"{a=`b\\nc`}", {"a": "b\\nc"}),
    (b'{a="b\nc"}', None),
    (b'{a="b\rc"}', {"a": "b\rc"}),
    (b'{a="b\x00c"}', {"a": "b\x00c"}),
    (b"{a='\"'}", {"a": '"'}),
    (b"{a='\\''}", {"a": "'"}),
    (b"{a='\\\"'}", None),
    (b'{a="\\\'"}', None),
    (b'{a="say "hello""}', None),
    (b'{a="C:\\dir"}', None),
    # escapes
    (b'{a="\\a\\b\\f\\n\\r\\t\\v\\\\\\""}', {"a": '\a\b\f\n\r\t\v\\"'}),
    (b'{a="\\x41\\u00e9\\U0001f600\\101"}', {"a": "Aé😀A"}),
    (b'{a="\\\\x41"}', {"a": "\\x41"}),
    (b'{a="\\\\\\x41"}', {"a": "\\A"}),
    (b'{a="\\xc3\\xa9"}', {"a": "é"}),
    (b'{a="\\303\\251"}', {"a": "é"}),
    (b'{a="\\\\\\xc3\\\\\\xa9"}', {"a": "\\\udcc3\\\udca9"}),
    (b'{a="\\xff"}', {"a": "\udcff"}),
    (b'{a="\\377\\000"}', {"a": "\udcff\x00"}),
    (b'{a="\\400"}', None),
    (b'{a="\\8"}', None),
    (b'{a="\\12"}', None),
    (b'{a="\\x4"}', None),
    (b'{a="\\u00g0"}', None),
    (b'{a="\\ud83d\\ude00"}', None),
    (b'{a="\\U0000d83d"}', None),
    (b'{a="\\U0010ffff"}', {"a": "\U0010ffff"}),
    (b'{a="\\U00110000"}', None),
    (b'{a="\\q"}', None),
    (b'{a="\\', None),
    # bytes that are no UTF-8, and U+FFFD, which Go cannot tell from them
    (b'{a="\xff"}', None),
    (b'{a="\xed\xa0\x80"}', None),
    (b"{a=`\xff`}", None),
    ('{a="\ufffd"}'.encode(), None),
    (b'{a="\\ufffd"}', {"a": "\ufffd"}),
    # comments
    (b'#x\n{a="b"}#y', A),
    (b'{#x\ra#y\n=#z\n"b"#\xff}\n}', A),
    (b'{a="b"#}', None),
    (b'{a="#b"}', {"a": "#b"}),
    (b"# nothing", {}),
    # names in front, quoted names, quoted metric names
    (b"foo", {"__name__": "foo"}),
    (b"foo {}", {"__name__": "foo"}),
    (b'a:b{c="d"}', {"__name__": "a:b", "c": "d"}),
    (b":a", {"__name__": ":a"}),
    (b'{"foo", a="b"}', {"__name__": "foo", "a": "b"}),
    (b'{"a b"="c"}', {"a b": "c"}),
    (b"{'a'=`b`}", A),
    (b'{"\\xff"="b"}', {"\udcff": "b"}),
    (b'{""="b"}', {"": "b"}),
    (b'{""}', {}),
    (b'{"foo" "bar"}', None),
    (b"foo bar", None),
    (b"1a{}", None),
    (b'SUM{a="b"}', {"__name__": "SUM", "a": "b"}),
    (b'fill{a="b"}', {"__name__": "fill", "a": "b"}),
    (b"by", {"__name__": "by"}),
    (b"offset{}", {"__name__": "offset"}),
    (b'on{a="b"}', None),
    (b"On", None),
    (b"ignoring{}", None),
    (b"group_left", None),
    (b"group_right", None),
    (b"bool", None),
    (b"atan2", None),
    (b"Inf{}", None),
    (b"nan", None),
    (b"nan:", {"__name__": "nan:"}),
    (b'{on="b", nan="c"}', {"on": "b", "nan": "c"}),
    # empty values are none, and next to a metric name they take their namesakes along
    (b'{a="", b="c"}', {"b": "c"}),
    (b'{a="1", a=""}', {"a": "1"}),
    (b'foo{a="1", a=""}', {"__name__": "foo"}),
    (b'foo{__name__="", a="b"}', {"__name__": "foo", "a": "b"}),
    # named twice
    (b'{a="1", a="2"}', {"a": "1"}),
    (b'{"foo", "bar"}', {"__name__": "foo"}),
    (b'foo{__name__="x", "y"}', {"__name__": "foo"}),
]

# Verified against Loki 3.7.8: loghttp's LabelSet.UnmarshalJSON, String, syntax.ParseLabels.
OBJECTS: list[tuple[bytes, dict[str, str] | None]] = [
    (b"{}", {}),
    (b' {"a" : "b"} ', A),
    (b'{"a":"b"', None),
    (b'{"a":"b",}', A),
    (b'{"a":"b"}}', A),
    (b'{"a" "b"}', None),
    (b'{"a":"b" "c":"d"}', None),
    (b"null", None),
    (b"[]", None),
    (b"", None),
    # any value is its text
    (
        b'{"a":1.50,"b":true,"c":false,"d":null,"e":-0}',
        {"a": "1.50", "b": "true", "c": "false", "d": "null", "e": "-0"},
    ),
    (b'{"a":{"x": [1, "}"]},"b":[ ]}', {"a": '{"x": [1, "}"]}', "b": "[ ]"}),
    (b'{"a":["\\u0041"]}', {"a": '["A"]'}),
    (b'{"a":["\\v"]}', None),
    (b'{"a":truex}', None),
    (b'{"a":[}', None),
    (b'{"a":{"b":"}', None),
    (b'{"a":""}', {}),
    # of equal keys the last
    (b'{"a":"1","a":"2"}', {"a": "2"}),
    (b'{"a":"1","\\u0061":"2"}', {"a": "2"}),
    (b'{"a":"1","a":""}', {}),
    # escapes
    (b'{"a":"\\"\\\\\\/\\b\\f\\n\\r\\t"}', {"a": '"\\/\b\f\n\r\t'}),
    (b'{"a":"\\u00e9\\ud83d\\ude00"}', {"a": "é😀"}),
    (b'{"a":"\\ud83d"}', None),
    (b'{"a":"\\ude00"}', None),
    (b'{"a":"\\ud83dxyde00"}', {"a": "😀"}),
    (b'{"a":"\\ud83d\\ue000"}', {"a": "\U0001f800"}),
    (b'{"a":"\\udfff\\uffff"}', None),
    (b'{"a":"\\x41"}', None),
    (b'{"a":"\\u12"}', None),
    (b'{"a":"\xff\n"}', {"a": "\udcff\n"}),
    (b'{"a":"\\ufffd"}', None),
    (b'{"a\\\\u0062":"c"}', {"ab": "c"}),
    # keys are label text
    (b'{"a.b":"c"}', None),
    (b'{"":"c"}', None),
    (b'{"\\"a b\\"":"c"}', {"a b": "c"}),
    (b'{"\\"a b\\"":"\xff\x01\\u2028\\udb40\\udc01"}', {"a b": "\udcff\x01\u2028\U000e0001"}),
    (b'{"a=\\"b\\", c":"d"}', {"a": "b", "c": "d"}),
    (b'{"a":"b","namespace=\\"shop\\",n":"x"}', {"a": "b", "namespace": "shop", "n": "x"}),
    (b'{"n=\\"1\\",a":"2","n":"3"}', {"n": "3", "a": "2"}),
    (b'{"#\\na":"b"}', A),
    (b'{"a=`":"\\u0001\\u00ad","b`,c":"d"}', {"a": '="\\x01\\u00ad", b', "c": "d"}),
    (b'{"a=\'":"\\u0007\\u2028","b\',c":"d"}', {"a": '="\a\u2028", b', "c": "d"}),
]

# Verified against json-iterator 1.1.12, read byte by byte.
STRINGS: list[tuple[bytes, str | None]] = [
    (b"", ""),
    (b'{a=\\"b\\"}', '{a="b"}'),
    (b"\\/\\b\\f\\n\\r\\t\\\\", "/\b\f\n\r\t\\"),
    (b"\\u00E9\\uD83D\\uDE00", "é😀"),
    (b"\\ud83d", "\ufffd"),
    (b"\\ude00\\ud83d", "\ufffd\ufffd"),
    (b"\\ud83d\\ud83d\\ude00", "\ufffd\ufffd\ufffd"),
    (b"\\ud83d\\u0041", "\ufffdA"),
    (b"\\ud83d\\n", "\ufffd\n"),
    (b"\\ud83dx", "\ufffdx"),
    (b"\\ud83d\\u00", None),
    (b"\\v", None),
    (b"\xc3\xa9\xff", "é\udcff"),
]

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"))
NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True)
LABELS = st.dictionaries(NAMES, WORDS, max_size=8)
PARTS = ("\\x", "41", "\\u00e9", "\\ud800", "\\777", "a", "a=", "sum", "on", '"x"', "é", "\ufffd")
PIECES = st.sampled_from((*"{},=\"'`\\#\n :\udcff", *PARTS))


def quoted(value: str) -> str:
    """A Go string literal of escapes only, made without any of our code."""
    return '"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"'


@pytest.mark.parametrize(("text", "expected"), METRICS)
def test_label_text_means_what_loki_makes_of_it(text, expected):
    assert labels.parse_metric(text) == expected
    assert labels.parse_metric(text.decode("utf-8", "surrogateescape")) == expected


@pytest.mark.parametrize(("raw", "expected"), OBJECTS)
def test_a_json_label_set_means_what_loki_makes_of_it(raw, expected):
    assert labels.parse_json_labels(raw) == expected


@pytest.mark.parametrize(("raw", "expected"), STRINGS)
def test_a_legacy_json_string_means_what_json_iterator_makes_of_it(raw, expected):
    assert labels.parse_json_string(raw) == expected


@given(LABELS)
def test_rendered_labels_parse_back(given_labels):
    """Whatever the values, labels written as text are the labels read, but for empty ones."""
    text = "{" + ", ".join(f"{n}={quoted(v)}" for n, v in given_labels.items()) + ",}"
    text = text if given_labels else "{}"
    assert labels.parse_metric(text) == {n: v for n, v in given_labels.items() if v}


@given(LABELS, st.booleans())
def test_json_objects_parse_back(given_labels, ascii_only):
    """Whatever the values, labels written by Python's json are the labels read."""
    raw = json.dumps(given_labels, ensure_ascii=ascii_only).encode()
    assert labels.parse_json_labels(raw) == {n: v for n, v in given_labels.items() if v}


@given(LABELS)
def test_odd_names_survive_both_ways_of_writing_them(given_labels):
    """A quoted name is a name, in label text and as the key of a JSON object alike."""
    pairs = {quoted(f"{name} é"): value for name, value in given_labels.items()}
    expected = {f"{name} é": value for name, value in given_labels.items() if value}
    text = "{" + ",".join(f"{n}={quoted(v)}" for n, v in pairs.items()) + "}"
    assert labels.parse_metric(text) == expected
    # once more escaped, for the key is unescaped twice
    keys = {name.replace("\\", "\\\\"): value for name, value in pairs.items()}
    assert labels.parse_json_labels(json.dumps(keys).encode()) == expected


@given(WORDS)
def test_a_legacy_label_string_is_the_json_string(value):
    """Whatever Python's json writes between quotes is read back."""
    for ascii_only in (True, False):
        raw = json.dumps(value, ensure_ascii=ascii_only)[1:-1].encode()
        assert labels.parse_json_string(raw) == value


@given(st.binary(max_size=60) | st.lists(PIECES).map("".join))
def test_any_label_text_is_labels_or_none(text):
    """No input raises, and no label that comes out is empty."""
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    for parse in (labels.parse_metric, labels.parse_json_labels):
        found = parse(raw)
        assert found is None or all(found.values())
    assert isinstance(labels.parse_json_string(raw), str | None)


@given(st.lists(PIECES).map("".join), LABELS)
def test_text_and_bytes_are_read_alike(junk, given_labels):
    """It does not matter whether label text comes as bytes or as str."""
    text = junk + "{" + ",".join(f"{n}={quoted(v)}" for n, v in given_labels.items()) + "}"
    raw = text.encode("utf-8", "surrogateescape")
    assert labels.parse_metric(text) == labels.parse_metric(raw)


MIB = 2**20
HOSTILE = {
    "escapes": (b'{a="', b"\\n", b'"}'),
    "escaped backslashes": (b'{a="', b"\\\\", b'"}'),
    "escaped bytes": (b'{a="', b"\\xc3\\xa9", b'"}'),
    "comments": (b"{", b"#\n", b"}"),
    "a comment of spaces": (b"{", b"# ", b""),
    "spaces": (b"", b" ", b"{}"),
    "an open string": (b'{a="', b"x", b""),
    "an open string of escapes": (b'{a="', b"\\n", b""),
    "a long name": (b"{", b"a", b"}"),
    "labels": (b"{", b'a="",', b"}"),
    "metric names": (b"{", b'"x",', b"}"),
    "nested objects": (b'{"a":', b"{", b""),
    "nested arrays in order": (b'{"a":[', b"[],", b"[]]}"),
    "strings": (b'{"a":[', b'"",', b'""]}'),
    "members": (b"{", b'"a":1,', b"}"),
    "an open member": (b'{"a":"', b"\\u00e9", b""),
    "odd keys": (b'{"a b":"', b"\x01", b'"}'),
    "half pairs": (b"", b"\\ud83d", b""),
}


@pytest.mark.parametrize("size", [MIB // 4, pytest.param(4 * MIB, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_takes_linear_time(name, size):
    before, repeated, after = HOSTILE[name]
    n = (size - len(before) - len(after) - 1) // len(repeated)
    text = before + n * repeated + after
    start = time.process_time()
    labels.parse_metric(text)
    labels.parse_json_labels(text)
    labels.parse_json_string(text)
    # Quadratic time would be hours; linear is under a second a MiB on a slow machine.
    assert time.process_time() - start < 5 + 4 * size / MIB
