"""Where a scan writes what it finds: one row per stream, one per entry, in lent arrays.

Rule 1: nothing here allocates, raises or touches a Python object.
Rule 2: rows beyond the lent room are counted but not written, so that the caller learns
how much room the body needs from one more pass over it.

The columns are the contract between the scanners (_wire.pxd, _json.pxd), the loops over
entries (_judge.pxd, _split.pxd) and the doors in _core.pyx; reference.py has the same.
"""
from libc.stdint cimport int64_t, uint64_t

cdef enum:
    # stream row: offsets into the body, the first entry's row, entries and their bytes
    STREAM_AT = 0          # raw range of the whole stream, its tag (or brace) included
    STREAM_END = 1
    STREAM_BODY = 2        # protobuf: where the payload starts; JSON: same as STREAM_AT
    STREAM_LABELS = 3      # labels as received: protobuf and legacy JSON without quotes,
    STREAM_LABELS_END = 4  # JSON the raw object; both 0 where the stream has none
    STREAM_FIRST = 5
    STREAM_COUNT = 6
    STREAM_SIZE = 7
    STREAM_COLUMNS = 8
    # entry row: raw range (tag and length included) and the bytes that Loki bills
    ENTRY_AT = 0
    ENTRY_END = 1
    ENTRY_SIZE = 2
    ENTRY_COLUMNS = 3

cdef enum:
    # What a scan can find wrong; _core.pyx turns these into words.
    OK = 0
    TRUNCATED = -1         # a length exceeds the bytes left
    OVERLONG = -2          # a varint of more than ten bytes
    BAD_TAG = -3           # field number 0, or an end-group without its start
    BAD_TYPE = -4          # a known field with another wire type
    BAD_JSON = -5          # not what JSON allows here
    BAD_TYPE_JSON = -6     # JSON, but another kind of value than the push format has here
    BAD_ESCAPE = -7        # a \ sequence that Loki refuses
    TOO_DEEP = -8          # nested beyond JSON_DEPTH_MAX
    UNFINISHED = -9        # JSON: the body ends inside a value
    # Timestamps that Loki refuses, see _time.pxd.
    BAD_TIME = -10         # protobuf: seconds or nanoseconds out of range
    BAD_TIME_NS = -11      # v1 JSON: not an int64
    BAD_TIME_TEXT = -12    # legacy JSON: not RFC 3339

cdef struct Found:
    int64_t *stream        # [stream_room, STREAM_COLUMNS]
    int64_t stream_room
    int64_t streams
    int64_t *entry         # [entry_room, ENTRY_COLUMNS]
    int64_t entry_room
    int64_t entries
    bint is_mixed          # JSON: a second list under one key, which Loki mixes with the first
    int64_t at             # after an error: the offset of the culprit
    int64_t in_stream      # and the stream and the entry that were being read, or -1
    int64_t in_entry
    uint64_t need          # after TRUNCATED: the length that was declared; BAD_TIME: seconds
    uint64_t left          # after TRUNCATED: the bytes that were left; BAD_TIME: nanoseconds


cdef inline int64_t *open_stream(Found *found) noexcept nogil:
    """The next stream's row, or NULL where there is no room for it; either way it counts."""
    cdef int64_t *row = NULL
    if found.streams < found.stream_room:
        row = found.stream + found.streams * STREAM_COLUMNS
    found.in_stream = found.streams
    found.streams += 1
    return row


cdef inline void add_entry(Found *found, int64_t at, int64_t end, int64_t size) noexcept nogil:
    """Note one entry; its stream's row gets its count and size from the caller."""
    cdef int64_t *row
    if found.entries < found.entry_room:
        row = found.entry + found.entries * ENTRY_COLUMNS
        row[ENTRY_AT] = at
        row[ENTRY_END] = end
        row[ENTRY_SIZE] = size
    found.entries += 1
