"""The dialect of a push, read from its Content-Type and its path as Loki reads them."""

import pytest

from sluice import errors
from sluice.wire import loki
from sluice.wire.loki import Dialect

# Verified against Go 1.26's mime.ParseMediaType and Loki 3.7.8's parsePushRequestBody.
CONTENT_TYPES = [
    ("application/x-protobuf", Dialect.PROTOBUF),
    ("text/plain", Dialect.PROTOBUF),
    ("json", Dialect.PROTOBUF),
    ("application/jsonx", Dialect.PROTOBUF),
    ("application/json", Dialect.JSON),
    (" Application/JSON ", Dialect.JSON),
    ("application/json;", Dialect.JSON),
    ("application/json ; charset=utf-8 ; ", Dialect.JSON),
    ('application/json; a = "x;\\"y" ;b=c', Dialect.JSON),
    ('application/json; a="C:\\dir"', Dialect.JSON),
    ("", None),
    (" ", None),
    ("/json", None),
    ("application/", None),
    ("application /json", None),
    ("application/json, application/json", None),
    ("application/json application/json", None),
    ("application/json;charset", None),
    ("application/json; =x", None),
    ("application/json;;", None),
    ('application/json; a="', None),
    ("application/json; a=b c=d", None),
]


@pytest.mark.parametrize(("header", "expected"), CONTENT_TYPES)
def test_the_content_type_is_read_as_go_reads_it(header, expected):
    if expected is None:
        with pytest.raises(errors.BadPush, match="Content-Type"):
            loki.dialect_of(header, "/loki/api/v1/push")
    else:
        assert loki.dialect_of(header, "/loki/api/v1/push") is expected


def test_a_push_without_content_type_is_refused():
    with pytest.raises(errors.BadPush, match="no Content-Type"):
        loki.dialect_of(None, "/loki/api/v1/push")


@pytest.mark.parametrize("letter", ["\u0130", "\u212a"])
def test_letters_that_go_lowers_to_ascii_are_refused(letter):
    # Go reads appl<U+0130>cation/json as application/json; whoever cannot must not guess.
    header = f"appl{letter}cation/json"
    for text in (header, header.encode().decode("latin-1")):
        with pytest.raises(errors.BadPush):
            loki.dialect_of(text, "/loki/api/v1/push")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/loki/api/v1/push", Dialect.JSON),
        ("/LOKI/api/V1/push", Dialect.JSON),
        ("/tenant/loki/api/v1/push", Dialect.JSON),
        ("/api/prom/push", Dialect.LEGACY),
        ("/api/prom/push?x=/loki/api/v1", Dialect.JSON),
        ("/loki/api/v2/push", Dialect.LEGACY),
    ],
)
def test_the_path_decides_which_json_it_is(path, expected):
    assert loki.dialect_of("application/json", path) is expected
    assert loki.dialect_of("application/x-protobuf", path) is Dialect.PROTOBUF
