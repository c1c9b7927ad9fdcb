"""Bodies and their encodings: what Loki takes is taken, and nothing grows past its limit."""

import contextlib
import gzip
import struct
import tracemalloc
import zlib

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice import errors
from sluice.wire import loki
from sluice.wire.loki import Dialect

MIB = 2**20
LIMIT = 2 * MIB
JSON_DIALECTS = [Dialect.JSON, Dialect.LEGACY]
PUSH = b'{"streams":[{"stream":{"a":"b"},"values":[["1","hello"]]}]}'

BYTES = st.binary(max_size=200) | st.builds(bytes.__mul__, st.binary(max_size=9), st.just(5000))


def snappy(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


def raw_deflate(data: bytes) -> bytes:
    engine = zlib.compressobj(wbits=-15)
    return engine.compress(data) + engine.flush()


def zstd(data: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(data))


def zstd_stream(data: bytes) -> bytes:
    """As a stream, which does not say how long it will be."""
    engine = cramjam.zstd.Compressor()
    engine.compress(data)
    return bytes(engine.finish())


# Content-Encoding, how to make it, the name under which Loki takes it ("" none), if it does.
OUTER = [
    ("", bytes, "", True),
    ("identity", bytes, "", True),
    (" Identity\t", bytes, "", True),
    ("snappy", bytes, "snappy", True),
    ("Snappy", bytes, "snappy", True),
    ("gzip", gzip.compress, "gzip", True),
    ("GZip", gzip.compress, "gzip", True),
    ("x-gzip", gzip.compress, "gzip", True),
    ("deflate", raw_deflate, "deflate", True),
    ("deflate", zlib.compress, "deflate", False),
    ("zstd", zstd, "zstd", False),
    ("zstd", zstd_stream, "zstd", False),
]


def decode(body, encoding="", dialect=Dialect.PROTOBUF, limit=LIMIT, scratch=None):
    found = loki.decode(body, encoding, dialect, limit, scratch or loki.Scratch())
    return bytes(found.view)


@pytest.mark.parametrize(("encoding", "outer", "name", "as_received"), OUTER)
@given(data=BYTES)
def test_every_encoding_comes_back(encoding, outer, name, as_received, data):
    """What an independent encoder wrote is decoded, and marked if Loki could not read it."""
    scratch = loki.Scratch()
    for dialect in Dialect:
        inner = snappy(data) if dialect is Dialect.PROTOBUF else data
        found = loki.decode(outer(inner), encoding, dialect, LIMIT, scratch)
        assert bytes(found.view) == data
        assert found.view.readonly
        assert found.as_received is as_received
        is_plain = dialect is not Dialect.PROTOBUF and name == "snappy"
        assert found.encoding == ("" if is_plain else name)


@given(BYTES, st.booleans())
def test_what_is_encoded_loki_takes_and_decodes(data, compressed):
    """encode() gives a body and header that Loki takes and that decode to the same bytes."""
    for dialect in Dialect:
        for given_as in (data, bytearray(data), memoryview(data)):
            body, encoding = loki.encode(given_as, dialect, compressed)
            assert loki.loki_takes(encoding, dialect)
            found = loki.decode(body, encoding, dialect, LIMIT, loki.Scratch())
            assert (bytes(found.view), found.as_received) == (data, True)


def test_encoded_bodies_are_what_independent_decoders_read():
    assert loki.encode(PUSH, Dialect.JSON, compressed=False) == (PUSH, "")
    body, encoding = loki.encode(PUSH, Dialect.LEGACY, compressed=True)
    assert (gzip.decompress(body), encoding) == (PUSH, "gzip")
    body, encoding = loki.encode(PUSH, Dialect.PROTOBUF, compressed=False)
    assert (bytes(cramjam.snappy.decompress_raw(body)), encoding) == (PUSH, "")


def test_loki_takes_its_own_spelling_only():
    for dialect in Dialect:
        taken = [e for e, *_ in OUTER if loki.loki_takes(e, dialect)]
        assert sorted(set(taken)) == ["", "deflate", "gzip", "snappy"]


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("encoding", ["br", "lz4", "gzip, gzip", "gzip,snappy", "x-snappy", "*"])
def test_an_encoding_that_is_not_known_is_named(encoding, dialect):
    with pytest.raises(errors.BadPush) as refusal:
        decode(PUSH, encoding, dialect)
    assert repr(encoding) in refusal.value.message


@given(BYTES, st.sampled_from([e for e, *_ in OUTER]), st.sampled_from(Dialect))
def test_any_body_is_decoded_or_refused(body, encoding, dialect):
    """Whatever the bytes: decoded within the limit, or BadPush or TooLarge, nothing else."""
    limit = 1000
    with contextlib.suppress(errors.BadPush, errors.TooLarge):
        assert len(decode(body, encoding, dialect, limit)) <= limit


@given(BYTES, st.sampled_from(OUTER), st.sampled_from(Dialect), st.data())
def test_a_damaged_body_is_decoded_or_refused(data, row, dialect, draw):
    """A body with bytes changed, lost or added never fails in an unforeseen way."""
    encoding, outer, _, _ = row
    body = bytearray(outer(snappy(data) if dialect is Dialect.PROTOBUF else data))
    at = draw.draw(st.integers(0, len(body)))
    body[at : at + draw.draw(st.integers(0, 3))] = draw.draw(st.binary(max_size=3))
    with contextlib.suppress(errors.BadPush, errors.TooLarge):
        assert len(decode(bytes(body), encoding, dialect)) <= LIMIT


def test_plain_json_is_not_copied():
    for encoding in ("", "snappy", "identity"):
        view = loki.decode(PUSH, encoding, Dialect.JSON, LIMIT, loki.Scratch()).view
        assert view.obj is PUSH


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("dialect", Dialect)
def test_an_empty_body_is_refused_where_something_must_be_in_it(encoding, dialect):
    with pytest.raises(errors.BadPush, match=encoding):
        decode(b"", encoding, dialect)


def test_an_empty_body_is_empty_json_and_no_protobuf():
    assert decode(b"", "", Dialect.JSON) == b""
    assert decode(gzip.compress(b""), "gzip", Dialect.JSON) == b""
    assert decode(b"\0") == b""
    for body, encoding in [(b"", ""), (b"", "snappy"), (gzip.compress(b""), "gzip")]:
        with pytest.raises(errors.BadPush, match="snappy"):
            decode(body, encoding)


# --- limits -----------------------------------------------------------------------------


@pytest.mark.parametrize(("encoding", "outer"), [(e, o) for e, o, *_ in OUTER])
@pytest.mark.parametrize("dialect", Dialect)
def test_the_limit_is_the_last_size_that_passes(encoding, outer, dialect):
    data = bytes(range(256)) * 8
    body = outer(snappy(data) if dialect is Dialect.PROTOBUF else data)
    assert decode(body, encoding, dialect, len(data)) == data
    with pytest.raises(errors.TooLarge) as refusal:
        decode(body, encoding, dialect, len(data) - 1)
    assert "2048 bytes" in refusal.value.message
    assert "2047 are allowed" in refusal.value.message


def test_incompressible_protobuf_may_be_longer_inside_gzip_than_decoded():
    noise = zlib.compress(bytes(range(256)))[:60]
    assert len(snappy(noise)) > len(noise)
    assert decode(gzip.compress(snappy(noise)), "gzip", limit=len(noise)) == noise


@pytest.fixture
def peak():
    """The most memory that Python held at a time since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def test_a_declared_length_is_refused_before_memory_is_taken(peak):
    scratch = loki.Scratch()
    for size in (LIMIT + 1, 2**32 - 1):
        with pytest.raises(errors.TooLarge) as refusal:
            decode(varint(size) + b"x", scratch=scratch)
        assert f"{size} bytes" in refusal.value.message
        assert str(LIMIT) in refusal.value.message
    with pytest.raises(errors.BadPush):
        decode(varint(2**32) + b"x", scratch=scratch)
    zstd_4_gib = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", 2**32 - 1)
    with pytest.raises(errors.TooLarge, match="4294967295 bytes"):
        decode(zstd_4_gib, "zstd", Dialect.JSON, scratch=scratch)
    assert peak() < MIB
    assert scratch.room(0) == b""


def test_a_snappy_body_that_declares_what_it_cannot_hold_is_refused_before_allocation(peak):
    scratch = loki.Scratch()
    with pytest.raises(errors.BadPush, match=r"1004 bytes .* 2097152 decoded .* 22088 that"):
        decode(varint(2 * MIB) + bytes(1000), scratch=scratch)
    assert peak() < MIB
    assert scratch.room(0) == b""


@pytest.mark.parametrize("body", [b'{"streams": []}', b'{"streams": [{"stream": {}}]}', b"[]"])
def test_json_that_was_sent_as_another_type_is_refused_with_the_type_to_use(body):
    with pytest.raises(errors.BadPush, match=r"send it with Content-Type: application/json$"):
        decode(body)


def test_the_best_that_snappy_can_do_is_taken():
    # a literal of one byte, then copies of 64 with an offset of one
    size = 1 + 64 * 10_000
    block = varint(size) + b"\x00x" + b"\xfe\x01\x00" * 10_000
    assert bytes(decode(block)) == b"x" * size


def zstd_bomb(blocks: int) -> bytes:
    """Frames of 128 KiB in four bytes each, without a declared size."""
    block = (2**17 << 3 | 1 << 1).to_bytes(3, "little") + b"x"
    last = (2**17 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"x"
    return b"\x28\xb5\x2f\xfd\x00\x58" + block * (blocks - 1) + last


def deflate_bomb(size: int, wbits: int) -> bytes:
    engine = zlib.compressobj(9, wbits=wbits)
    return b"".join(engine.compress(bytes(MIB)) for _ in range(size // MIB)) + engine.flush()


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    ("encoding", "bomb"),
    [
        ("gzip", deflate_bomb(64 * MIB, 31)),
        ("gzip", 40 * deflate_bomb(MIB, 31)),
        ("deflate", deflate_bomb(64 * MIB, -15)),
        ("deflate", deflate_bomb(64 * MIB, 15)),
        ("zstd", zstd_bomb(250)),
        ("zstd", zstd_bomb(2**15)),
        ("zstd", 250 * zstd_bomb(1)),
    ],
)
def test_a_bomb_stops_at_the_limit(encoding, bomb, dialect, peak):
    scratch = loki.Scratch()
    with pytest.raises(errors.TooLarge, match="at least 4194305 bytes, at most 4194304 are"):
        decode(bomb, encoding, dialect, 4 * MIB, scratch)
    # the output, a chunk of it, and what Python allocates in advance
    assert peak() < 7 * MIB
    # half as much again as was needed, of which only that was written to
    assert len(scratch.room(0)) <= 6 * MIB


def test_a_snappy_bomb_in_gzip_is_refused_by_what_it_declares():
    with pytest.raises(errors.TooLarge, match="4294967295 bytes"):
        decode(gzip.compress(varint(2**32 - 1) + bytes(MIB)), "gzip")


def test_many_tiny_members_do_not_take_quadratic_time():
    member = gzip.compress(b"")
    assert decode(MIB // len(member) * member + gzip.compress(PUSH), "gzip", Dialect.JSON) == PUSH


# --- what Go's readers see and do not see -----------------------------------------------

GZIPPED = gzip.compress(PUSH)
HALVES = gzip.compress(PUSH[:30]) + gzip.compress(PUSH[30:])
BAD_CHECKSUM = GZIPPED[:-8] + b"abcd" + GZIPPED[-4:]
BAD_LENGTH = GZIPPED[:-4] + b"abcd"


@pytest.mark.parametrize("dialect", JSON_DIALECTS)
@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", HALVES),
        ("gzip", BAD_CHECKSUM),
        ("gzip", BAD_LENGTH),
        ("gzip", GZIPPED[:-8]),
        ("gzip", GZIPPED[:-3]),
        ("gzip", GZIPPED + b"garbage"),
        ("gzip", BAD_CHECKSUM + GZIPPED),
        ("deflate", raw_deflate(PUSH) + b"garbage"),
        ("deflate", zlib.compress(PUSH) + b"garbage"),
    ],
)
def test_json_is_read_as_far_as_it_goes(encoding, body, dialect):
    # Verified against Loki 3.7.8, which takes all of these but the zlib-wrapped one.
    assert decode(body, encoding, dialect) == PUSH


@pytest.mark.parametrize("cut", [20, 40, 60])
def test_the_readable_part_of_cut_or_damaged_json_is_a_prefix(cut):
    for damage in (b"", b"\xff\xff\xff"):
        found = decode(GZIPPED[:cut] + damage, "gzip", Dialect.JSON)
        assert found
        assert PUSH.startswith(found[:-3] if damage else found)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"no gzip at all"),
        ("gzip", GZIPPED[:8]),
        ("deflate", b"\xff\xff\xff\xff"),
        ("deflate", zlib.compress(PUSH)[:-1]),
        ("zstd", zstd(PUSH)[:-1]),
        ("zstd", zstd(PUSH) + b"garbage"),
        ("zstd", b"garbage"),
    ],
)
def test_json_of_which_nothing_can_be_read_is_refused(encoding, body):
    with pytest.raises(errors.BadPush, match=f"Content-Encoding {encoding}"):
        decode(body, encoding, Dialect.JSON)


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: body[:-8] + b"abcd" + body[-4:],
        lambda body: body[:-4] + b"abcd",
        lambda body: body[:-3],
        lambda body: body + b"garbage",
        lambda body: body + bytes(8),
    ],
)
def test_gzip_around_protobuf_is_read_to_its_end(damage):
    # Verified against Loki 3.7.8, which refuses all of these.
    body = gzip.compress(snappy(PUSH))
    assert decode(body, "gzip") == PUSH
    with pytest.raises(errors.BadPush, match="gzip"):
        decode(damage(body), "gzip")


def test_protobuf_in_gzip_members_and_in_deflate_with_garbage_behind_it_is_taken():
    block = snappy(PUSH)
    assert decode(gzip.compress(block[:9]) + gzip.compress(block[9:]), "gzip") == PUSH
    assert decode(raw_deflate(block) + b"garbage", "deflate") == PUSH
    with pytest.raises(errors.BadPush):
        decode(raw_deflate(block)[:-1], "deflate")


def test_protobuf_must_be_snappy_inside_of_gzip():
    with pytest.raises(errors.BadPush, match="snappy"):
        decode(gzip.compress(PUSH), "gzip")
    framed = bytes(cramjam.snappy.compress(PUSH))
    with pytest.raises(errors.SluiceError):
        decode(framed)


@pytest.mark.parametrize("dialect", Dialect)
def test_a_body_that_is_deflate_both_ways_is_read_the_way_of_loki(dialect):
    # 0x78 begins a zlib wrapper, and a stored block of raw deflate. Verified against Go.
    wanted = PUSH if dialect is not Dialect.PROTOBUF else snappy(PUSH)
    stored = b"\x01\x01" + bytes(255)
    raw = b"\x78\x01\x01\xfe\xfe" + stored
    raw += b"\x01" + struct.pack("<HH", len(wanted), len(wanted) ^ 0xFFFF) + wanted
    hidden = (raw[7:] + bytes(0xFEFE))[:0xFEFE]
    body = raw[:7] + hidden + struct.pack(">I", zlib.adler32(hidden))
    assert zlib.decompress(body) == hidden
    if dialect is Dialect.PROTOBUF:
        with pytest.raises(errors.BadPush):
            decode(body, "deflate", dialect)
    else:
        assert decode(body, "deflate", dialect) == stored + wanted


# Verified against golang/snappy: taken with this result. The last three have their length
# written longer than needed, which cramjam alone would refuse.
BLOCKS = [
    ("0010", None),
    ("0000", None),
    ("0104", None),
    ("010061", b"a"),
    ("8100" + "0061", b"a"),
    ("0500" + "61" + "0a0100", None),
    ("0400" + "61" + "0a0100", b"aaaa"),
    ("0400" + "61" + "0a0200", None),
    ("0400" + "61" + "0b01000000", b"aaaa"),
    ("01f00061", b"a"),
    ("02f0016162", b"ab"),
    ("01f4000061", b"a"),
    ("02f0006100", None),
]


@pytest.mark.parametrize(("block", "expected"), BLOCKS)
def test_snappy_is_read_as_go_reads_it(block, expected):
    if expected is None:
        with pytest.raises(errors.BadPush, match="snappy"):
            decode(bytes.fromhex(block))
    else:
        assert decode(bytes.fromhex(block)) == expected


# --- the other formats and the scratch --------------------------------------------------


@given(st.lists(BYTES, max_size=4), st.booleans())
def test_zstd_frames_are_joined_and_skippable_ones_skipped(parts, streamed):
    """Any number of frames decodes to their contents in a row."""
    skippable = struct.pack("<II", 0x184D2A50, 3) + b"abc"
    make = zstd_stream if streamed else zstd
    body = skippable + b"".join(make(part) + skippable for part in parts)
    assert decode(body, "zstd", Dialect.JSON) == b"".join(parts)


def test_zstd_that_shrank_a_thousandfold_is_decoded():
    data = bytes(3 * MIB) + PUSH
    for make in (zstd, zstd_stream):
        assert len(make(data)) < 4096
        assert decode(make(data), "zstd", Dialect.JSON, len(data)) == data


@given(st.lists(st.tuples(BYTES, st.sampled_from(OUTER)), max_size=6))
def test_a_scratch_that_was_used_before_does_not_show(pushes):
    """Results do not depend on what a scratch held before, nor on its size."""
    scratch = loki.Scratch()
    for data, (encoding, outer, _, _) in pushes:
        body = outer(snappy(data))
        assert decode(body, encoding, scratch=scratch) == data
        assert decode(outer(data), encoding, Dialect.JSON, scratch=scratch) == data


def test_a_scratch_grows_shrinks_only_when_told_and_leaves_old_views_readable():
    scratch = loki.Scratch()
    first = loki.decode(snappy(PUSH), "", Dialect.PROTOBUF, LIMIT, scratch).view
    buffer = scratch.room(10)
    assert scratch.room(len(PUSH)).obj is buffer.obj
    assert len(scratch.room(MIB)) >= MIB
    assert bytes(first) == PUSH
    large = loki.decode(gzip.compress(bytes(MIB + 5)), "gzip", Dialect.JSON, LIMIT, scratch).view
    larger = loki.decode(gzip.compress(bytes(MIB + 9)), "gzip", Dialect.JSON, LIMIT, scratch).view
    assert (len(large), len(larger)) == (MIB + 5, MIB + 9)
    scratch.trim(2 * MIB)
    assert len(scratch.room(0)) > MIB
    scratch.trim(MIB)
    assert len(scratch.room(0)) == 0


def varint(n: int) -> bytes:
    low = [n >> shift & 127 | 128 for shift in range(0, 64, 7) if n >> shift]
    return bytes([*low[:-1], low[-1] & 127])
