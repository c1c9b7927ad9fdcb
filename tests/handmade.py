"""PushRequests byte by byte, for what no encoder writes and Loki reads all the same.

The strategies draw a message as a list of fields: so they come in any order, scalars come
twice or not at all, and fields that nobody knows stand between them.
"""

import functools

from hypothesis import strategies as st

VARINT, FIXED64, BYTES, GROUP, GROUP_END, FIXED32 = range(6)
VARINT_BYTES_MAX = 10


def varint(value: int, width: int = 1) -> bytes:
    """The value in `width` bytes, or in as many as it needs."""
    out = bytearray()
    while value >= 0x80 or len(out) + 1 < width:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def tag(number: int, wire_type: int, width: int = 1) -> bytes:
    return varint(number << 3 | wire_type, width)


def sized(number: int, payload: bytes, width: int = 1) -> bytes:
    """A field with a length; tag and length take `width` bytes, or as many as they need."""
    return tag(number, BYTES, width) + varint(len(payload), width) + payload


def group(number: int, content: bytes = b"") -> bytes:
    return tag(number, GROUP) + content + tag(number, GROUP_END)


def pair(name: bytes, value: bytes) -> bytes:
    return sized(1, name) + sized(2, value)


def timestamp(seconds: int, nanos: int) -> bytes:
    """A Timestamp's payload; negative numbers take ten bytes, as protobuf writes them."""
    return tag(1, VARINT) + varint(seconds % 2**64) + tag(2, VARINT) + varint(nanos % 2**64)


def entry(line: bytes, *pairs: bytes, time: bytes = b"") -> bytes:
    """An Entry's payload; `time` is that of its Timestamp."""
    return sized(1, time) + sized(2, line) + b"".join(sized(3, own) for own in pairs)


def stream(labels: bytes, *entries: bytes) -> bytes:
    """A Stream's payload."""
    return sized(1, labels) + b"".join(sized(2, own) for own in entries)


def push(*streams: bytes) -> bytes:
    return b"".join(sized(1, own) for own in streams)


# -- strategies ---------------------------------------------------------------------------------


@st.composite
def joined(draw: st.DrawFn, *fields: st.SearchStrategy[bytes], least: int = 0, most: int) -> bytes:
    """A message of so many of these fields; what is named twice comes twice as often."""
    # not st.one_of, which forgets repetitions
    chosen = st.lists(st.sampled_from(range(len(fields))), min_size=least, max_size=most)
    return b"".join(draw(fields[i]) for i in draw(chosen))


def unknown_fields(numbers: st.SearchStrategy[int], width: st.SearchStrategy[int]):
    """Fields that nobody knows, groups within groups among them."""
    leaf = st.one_of(
        st.builds(lambda n, v, w: tag(n, VARINT) + varint(v, w), numbers, WORDS, width),
        st.builds(lambda n, v: tag(n, FIXED64) + v, numbers, st.binary(min_size=8, max_size=8)),
        st.builds(lambda n, v: tag(n, FIXED32) + v, numbers, st.binary(min_size=4, max_size=4)),
        st.builds(sized, numbers, st.binary(max_size=9), width),
    )
    return st.recursive(
        leaf,
        lambda inner: st.builds(group, numbers, st.lists(inner, max_size=3).map(b"".join)),
        max_leaves=4,
    )


WORDS = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
# The name that is not billed, and those that are easily taken for it.
NAMES = st.one_of(
    st.sampled_from([b"detected_level", b"detected_levels", b"Detected_level", b"detected_leve"]),
    st.binary(max_size=8),
)
LINES = st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"x" * 127, b"x" * 128]))


@functools.cache
def pushes(*, foreign: bool = True) -> st.SearchStrategy[bytes]:
    """Pushes that are accepted.

    Args:
        foreign: also what Loki's generated code reads and other decoders refuse: tags of more
            than five bytes, and field numbers of which only the low 32 bits count.
    """
    width = st.sampled_from([1, 1, 1, 2, 5, VARINT_BYTES_MAX] if foreign else [1, 1, 1, 2, 5])
    high = [2**29, 2**31 - 1, 2**32 + 9, 2**60 + 5] if foreign else [2**29 - 1]
    unknown = unknown_fields(st.sampled_from([5, 6, 15, 16, 2047, *high]), width)

    def known(number: int, payload: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
        numbers = [number, number, 2**32 + number] if foreign else [number]
        return st.builds(sized, st.sampled_from(numbers), payload, width)

    hashes = st.builds(lambda v, w: tag(3, VARINT) + varint(v, w), WORDS, width)
    pairs = joined(known(1, NAMES), known(2, LINES), unknown, most=3)
    # Loki judges `parsed`: to Sluice it is any bytes; to others, messages.
    opaque = st.binary(max_size=9) if foreign else st.just(tag(1, VARINT) + varint(7))
    seconds = st.builds(lambda n, w: tag(1, VARINT) + varint(n, w), st.integers(0, 2**37), width)
    nanos = st.builds(lambda n, w: tag(2, VARINT) + varint(n, w), st.integers(0, 10**9 - 1), width)
    times = joined(seconds, nanos, unknown, most=3)
    time, line, pair = known(1, times), known(2, LINES), known(3, pairs)
    parsed = known(4, opaque if foreign else pairs)
    entries = joined(time, line, line, pair, parsed, unknown, least=1, most=5)
    own, labels = known(2, entries), known(1, st.binary(max_size=12))
    streams = joined(own, own, own, own, labels, hashes, unknown, least=3, most=10)
    own, empty = known(1, streams), st.just(sized(1, b""))
    formats = known(2, st.binary(max_size=4))
    return joined(own, own, own, own, empty, formats, unknown, least=1, most=5)
