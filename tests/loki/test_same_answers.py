"""What Loki takes, Sluice takes: mutated pushes, sent directly and through Sluice."""

import collections
import gzip
import json
import random
import re
from collections.abc import Callable

import pytest
import shippers
from harness import Reply, Sluice, budget
from loki.harness import Loki
from shippers import Entry, Push, Stream

pytestmark = [pytest.mark.loki, pytest.mark.slow]

BODIES = 2000
SEED = 20260302
# Fixed, so that a body is the same in every run; Loki is told to take old entries.
START_NS = 1_772_000_000 * 10**9
OK = range(200, 300)

Mutate = Callable[[random.Random, bytes], bytes]

# -- bytes: any format ----------------------------------------------------------------------------


def flip(rng: random.Random, raw: bytes) -> bytes:
    """Change a few bits."""
    changed = bytearray(raw)
    for _ in range(rng.randrange(1, 4)):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, raw: bytes) -> bytes:
    """End too early."""
    return raw[: rng.randrange(len(raw) + 1)]


def append(rng: random.Random, raw: bytes) -> bytes:
    """Go on after the end."""
    return raw + rng.choice([b"\0", b"\n \t", b"}", b"{}", b"\x1a\x00", rng.randbytes(5), raw])


def splice(rng: random.Random, raw: bytes) -> bytes:
    """Repeat, move or lose a piece."""
    start, end, at = sorted(rng.randrange(len(raw) + 1) for _ in range(3))
    return rng.choice(
        [
            raw[:start] + raw[end:],
            raw[:end] + raw[start:],
            raw[:start] + raw[end:at] + raw[start:end] + raw[at:],
        ]
    )


def same(rng: random.Random, raw: bytes) -> bytes:
    """Leave it: the others are compared with what is right."""
    return raw


ANYTHING: list[Mutate] = [flip, cut, append, splice, same]

# -- protobuf: changes that keep it readable ------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def unknown_field(rng: random.Random) -> bytes:
    """A field that nobody knows, of any wire type, a group among them."""
    number = rng.choice([5, 15, 16, 1000, (1 << 29) - 1])
    return rng.choice(
        [
            varint(number << 3) + varint(rng.getrandbits(64)),
            varint(number << 3 | 1) + rng.randbytes(8),
            varint(number << 3 | 5) + rng.randbytes(4),
            field(number, rng.randbytes(rng.randrange(9))),
            varint(number << 3 | 3) + field(2, b"x") + varint(number << 3 | 4),
        ]
    )


ODD_TEXT = [
    *(b"", b"\0", b"\xff\xfe", b"\xc3(", b"\xed\xa0\x80", b"a\nb\tc", b'"quoted"', b"\\"),
    *("zażółć 🜚".encode(), b"\xf4\x90\x80\x80", b"\xc0\xaf", b"x" * 3000, b"{}", b"null"),
]


def entry_parts(rng: random.Random, entry: Entry) -> list[bytes]:
    """The fields of an entry, some of them strange but each well-formed."""
    seconds, nanos = divmod(entry.ts_ns, 10**9)
    stamp = [b"\x08" + varint(seconds), b"\x10" + varint(nanos)]
    parts = [field(1, b"".join(stamp)), field(2, shippers.raw(entry.line))]
    for name, value in entry.metadata.items():
        parts.append(field(3, field(1, name.encode()) + field(2, value.encode())))
    # About one entry in three pushes.
    match rng.randrange(30):
        case 0:
            parts.append(field(2, rng.choice(ODD_TEXT)))
        case 1:
            parts[1] = field(2, rng.choice(ODD_TEXT))
        case 2:
            parts.append(field(3, field(2, rng.choice(ODD_TEXT)) + field(1, b"trace_id")))
        case 3:
            parts.append(field(3, field(1, rng.choice(ODD_TEXT))))
        case 4:
            parts.append(field(1, b"\x10" + varint(rng.choice([0, 1, 10**9, (1 << 64) - 1]))))
        case 5:
            parts.append(field(4, field(1, b"parsed") + field(2, b"by nobody")))
        case 6:
            parts.append(unknown_field(rng))
        case 7:
            parts[0] = field(1, stamp[1] + unknown_field(rng) + stamp[0])
        case 8:
            parts.append(field(3, b""))
        case 9:
            rng.shuffle(parts)
        case 10:
            del parts[rng.randrange(len(parts))]
    return parts


ODD_LABELS: list[Callable[[str], str]] = [
    lambda labels: labels.replace(", ", ","),
    lambda labels: labels.replace("=", " = ").replace(", ", " ,\n"),
    lambda labels: labels[:-1] + ",}",
    lambda labels: labels.replace('"', "`"),
    lambda labels: labels.replace('"', "'"),
    lambda labels: labels[:-1] + ', empty=""}',
    lambda labels: labels[:-1] + ', namespace="twice"}',
    lambda labels: labels[:-1] + ', "quoted name"="x"}',
    lambda labels: labels[:-1] + ', unicode="\\u017c\\x41\\101"}',
    lambda labels: labels[:-1] + ', bad="\\q"}',
    lambda labels: labels[:-1] + ', odd="a\xa0b"}',
    lambda labels: "name" + labels,
    lambda labels: labels[:-1],
    lambda labels: labels + " ",
    lambda labels: "# a comment\n" + labels,
    lambda labels: "{}",
    lambda labels: "",
]


def strange_protobuf(rng: random.Random, streams: list[Stream]) -> bytes:
    """A PushRequest written by hand: fields in any order, repeated, unknown, empty."""
    request = []
    for stream in streams:
        labels = shippers.labels_text(stream.labels)
        if rng.random() < 0.2:
            labels = rng.choice(ODD_LABELS)(labels)
        parts = [field(1, shippers.raw(labels))]
        parts += [field(2, b"".join(entry_parts(rng, entry))) for entry in stream.entries]
        match rng.randrange(8):
            case 0:
                rng.shuffle(parts)
            case 1:
                parts.append(field(1, shippers.raw(labels)))
            case 2:
                parts.append(b"\x18" + varint(rng.getrandbits(64)))
            case 3:
                parts.append(unknown_field(rng))
            case 4:
                parts = parts[:1]
        request.append(field(1, b"".join(parts)))
    match rng.randrange(8):
        case 0:
            request.append(field(2, b"loki"))
        case 1:
            request.append(unknown_field(rng))
        case 2:
            request.append(field(1, b""))
        case 3:
            request.append(field(1, field(1, b'{app="no entries"}')))
    return b"".join(request)


# -- JSON: changes that keep it readable, mostly --------------------------------------------------

ODD_JSON = [
    *("null", "true", "-0", "1e3", "1.50", '""', "[]", "{}", '"\\ud800"', '"\\udc00\\ud800"'),
    *('"\\u0000"', '"\\ud83d\\ude00"', '"\\/"', '"a\\u00e9"', '["x"]', '{"k":"v"}', "01", "'x'"),
]


def replace_value(rng: random.Random, raw: bytes) -> bytes:
    """Put something else in the place of one string."""
    strings = list(re.finditer(rb'"[^"\\]*"', raw))
    if not strings:
        return raw
    chosen = rng.choice(strings)
    return raw[: chosen.start()] + rng.choice(ODD_JSON).encode() + raw[chosen.end() :]


def extra_key(rng: random.Random, raw: bytes) -> bytes:
    """Add a member to some object: unknown, or one that is there already."""
    opened = [found.end() for found in re.finditer(rb"\{", raw)]
    if not opened:
        return raw
    at = rng.choice(opened)
    name = rng.choice(["x", "streams", "stream", "values", "labels", "entries", "ts", "line", ""])
    return raw[:at] + f'"{name}":{rng.choice(ODD_JSON)},'.encode() + raw[at:]


def odd_bytes(rng: random.Random, raw: bytes) -> bytes:
    """Put bytes into some string that are no UTF-8, or no JSON."""
    at = rng.randrange(len(raw) + 1)
    return raw[:at] + rng.choice([*ODD_TEXT, b"\xef\xbb\xbf", b"\\ud800", b"\\x41"]) + raw[at:]


def spaced(rng: random.Random, raw: bytes) -> bytes:
    """Write it over many lines, and with every character escaped that may be."""
    try:
        document = json.loads(raw)
    except ValueError:
        return raw
    text = json.dumps(document, indent=rng.choice([None, 1, "\t"]), ensure_ascii=True)
    return rng.choice(["", " \r\n\t"]).encode() + text.encode()


def longer_value(rng: random.Random, raw: bytes) -> bytes:
    """Add elements to an entry of the v1 dialect."""
    ends = [found.end() for found in re.finditer(rb'"\d{19}",("(?:[^"\\]|\\.)*")', raw)]
    if not ends:
        return raw
    at = rng.choice(ends)
    more = rng.choice([",{}", ',{"a":"b"}', ",null", ',{"a":1}', ',{"a":"b"},"more"', ",[]", ","])
    return raw[:at] + more.encode() + raw[at:]


def odd_stamp(rng: random.Random, raw: bytes) -> bytes:
    """Change how a timestamp is written."""
    stamps = list(re.finditer(rb'"(\d{19}|\d{4}-\d\d-\d\dT[^"]*)"', raw))
    if not stamps:
        return raw
    chosen = rng.choice(stamps)
    stamp = chosen[1]
    told = rng.choice(
        [
            *(stamp, b'"+' + stamp + b'"', b'" ' + stamp + b'"', b'"0' + stamp + b'"', b'"0x10"'),
            *(b'""', b'"' + stamp + b'.5"', b'"' + stamp.replace(b"Z", b"+00:00") + b'"'),
            *(b'"' + stamp.replace(b"T", b" ") + b'"', b'"' + stamp[:-4] + b'Z"', b"null"),
        ]
    )
    return raw[: chosen.start()] + told + raw[chosen.end() :]


def doubled(rng: random.Random, raw: bytes) -> bytes:
    """Write a member of an object twice: the second time as it was, or empty."""
    member = rb'"(values|entries|stream|labels|line|ts)":(\[\[.*?\]\]|\[.*?\}\]|\{.*?\}|"[^"\\]*")'
    members = list(re.finditer(member, raw))
    if not members:
        return raw
    chosen = rng.choice(members)
    empty = {b"[": b"[]", b"{": b"{}", b'"': b'""'}[chosen[2][:1]]
    again = rng.choice([chosen[2], chosen[2], empty, b"null"])
    twice = [chosen[0], b'"' + chosen[1] + b'":' + again]
    rng.shuffle(twice)
    return raw[: chosen.start()] + b",".join(twice) + raw[chosen.end() :]


IN_JSON: list[Mutate] = [
    *(replace_value, replace_value, extra_key, odd_bytes, spaced, longer_value, odd_stamp, doubled),
    *ANYTHING,
]

# -- the bodies -----------------------------------------------------------------------------------

JSON_TYPES = [shippers.JSON] * 12 + ["application/json; charset=utf-8", "APPLICATION/JSON", "text"]
PROTOBUF_TYPES = [shippers.PROTOBUF] * 12 + ["application/x-protobuf; a=b", "application/x-snappy"]


def make_push(number: int) -> tuple[str, Push]:
    """Body `number` and what was done to it; the same in every run."""
    rng = random.Random(SEED + number)
    # Labels of its own for every body: none depends on what became of another.
    streams = shippers.make_streams(
        SEED + number,
        [f"ns-{number}"],
        streams=rng.randrange(1, 4),
        entries=rng.randrange(1, 5),
        start_ns=START_NS,
    )
    kind = number % 5
    if kind < 2:
        plain = strange_protobuf(rng, streams)
        inside = rng.choice(ANYTHING) if rng.random() < 0.4 else same
        outside = rng.choice(ANYTHING) if rng.random() < 0.2 else same
        body = outside(rng, shippers.snappy(inside(rng, plain)))
        headers = {"Content-Type": rng.choice(PROTOBUF_TYPES)}
        if rng.random() < 0.4:
            headers["Content-Encoding"] = "snappy"
        elif rng.random() < 0.2:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, 1, mtime=0)
        told = f"protobuf, inside {inside.__name__}, outside {outside.__name__}"
        return told, Push(body, headers)
    if kind == 4:
        made = shippers.legacy(streams)
    else:
        made = rng.choice([shippers.fluent_bit, shippers.vector_json])(streams)
    mutations = [rng.choice(IN_JSON) for _ in range(rng.choice([0, 1, 1, 1, 2, 3]))]
    body = made.body
    for mutation in mutations:
        body = mutation(rng, body)
    headers = {"Content-Type": rng.choice(JSON_TYPES)}
    outside = same
    if rng.random() < 0.3:
        headers["Content-Encoding"] = "gzip"
        outside = rng.choice([same, same, *ANYTHING])
        body = outside(rng, gzip.compress(body, 1, mtime=0))
    names = ", ".join(mutation.__name__ for mutation in mutations)
    told = f"{'legacy' if kind == 4 else 'v1'}, {names}, outside {outside.__name__}"
    return told, Push(body, headers, made.path)


def test_what_loki_takes_sluice_takes(loki: Loki, sluice: Callable[..., Sluice]) -> None:
    """No body that Loki answers 2xx gets another status through Sluice."""
    front = sluice([budget("somebody-else", 1000)], loki.url)
    answers: collections.Counter[tuple[int, int]] = collections.Counter()
    differ: list[str] = []
    taken: list[Push] = []
    for number in range(BODIES):
        told, push = make_push(number)
        direct = loki.send(push, "direct")
        through = front.send(push, "through")
        answers[direct.status, through.status] += 1
        if direct.status in OK and through.status == direct.status:
            taken.append(push)
        elif not may_differ(direct, through):
            differ.append(
                f"body {number} ({told}): Loki {direct.status}, Sluice {through.status}"
                f" {through.text.strip()[:200]}\n    {push.headers} {push.body[:300]!r}"
            )
    # What Loki took comes first.
    differ.sort(key=lambda text: "Loki 2" not in text)
    assert not differ, f"{len(differ)} of {BODIES}, {dict(answers)}\n" + "\n".join(differ[:20])
    assert BODIES // 4 < len(taken) < BODIES * 3 // 4, f"the mutations show little: {answers}"

    # And they mean the same, those of them alone that are stored whole.
    for push in taken:
        assert loki.send(push, "direct-again").status in OK
        assert front.send(push, "through-again").status in OK
    assert loki.received_bytes("through-again") == loki.received_bytes("direct-again") > 0
    assert loki.received_lines("through-again") == loki.received_lines("direct-again") > 0


def may_differ(direct: Reply, through: Reply) -> bool:
    """Whether Loki's answer and Sluice's are a pair that nobody has to wonder about."""
    if direct.status in OK:
        # Sluice's own limits on size may be lower than Loki's.
        return through.status == 413
    # Loki has a 500 for some bodies, an empty metadata name for one; Sluice has none of its own.
    return through.status < 500 or through.status == direct.status
