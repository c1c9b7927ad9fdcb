"""A JSON push as the core reads and splits it: its rows, its sizes, or the words of a refusal."""

from array import array
from types import ModuleType
from typing import Any

import numpy
import twins

from sluice import _core, errors, reference_json

V1, LEGACY = False, True


def scanned(core: ModuleType, body: bytes, legacy: bool) -> tuple[Any, Any]:
    """All rows. The body goes in without spare room behind it, so that ASan sees overreads."""
    lent = twins.exact(body)
    nothing = numpy.zeros((0, 8), numpy.int64), numpy.zeros((0, 3), numpy.int64)
    streams, entries, mixed = core.scan_json(lent, legacy, *nothing)
    stream = numpy.full((streams, 8), -1, numpy.int64)
    entry = numpy.full((entries, 3), -1, numpy.int64)
    assert core.scan_json(lent, legacy, stream, entry) == (streams, entries, mixed)
    return stream, entry


def outcome(core: ModuleType, body: bytes, legacy: bool) -> Any:
    try:
        stream, entry = scanned(core, body, legacy)
    except errors.BadPush as error:
        return str(error)
    return stream.tolist(), entry.tolist()


def sizes(core: ModuleType, body: bytes, legacy: bool) -> list[list[int]]:
    """Per stream the sizes of its entries; the stream's own figures must agree."""
    stream, entry = scanned(core, body, legacy)
    found = []
    for _, _, _, _, _, first, count, size in stream.tolist():
        found.append(entry[first : first + count, 2].tolist())
        assert sum(found[-1]) == size
    return found


def split(body: bytes, legacy: bool, drop: Any = ()) -> bytes:
    """The body without the entries `drop`; both implementations must agree."""
    stream, entry = scanned(_core, body, legacy)
    verdict = numpy.zeros(len(entry), numpy.uint8)
    verdict[list(drop)] = 1
    room = len(body) + 64 * len(stream) + 64
    out = array("B", bytes(room + 8))
    dialect = 2 if legacy else 1
    size = _core.split(twins.exact(body), dialect, stream, entry, verdict, out)
    assert size <= room
    assert not any(out[size:])
    assert out[:size].tobytes() == reference_json.split_json(body, legacy, stream, entry, verdict)
    return out[:size].tobytes()
