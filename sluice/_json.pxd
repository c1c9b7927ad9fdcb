"""A JSON push body: where its streams and entries are, and the bytes that Loki bills.

    v1      {"streams": [{"stream": {"k": "v"}, "values": [["<ns>", "line", {"k": "v"}]]}]}
    legacy  {"streams": [{"labels": "{k=\\"v\\"}", "entries": [
                {"ts": "<RFC 3339>", "line": "line", "structuredMetadata": {"k": "v"}}]}]}

Rule 1: nothing here allocates, raises, recurses or touches a Python object.
Rule 2: what Loki takes is taken, with as many entries and the same size. What Loki refuses
may pass where refusing it takes more code (numbers, types of fields that do not
matter), for Loki judges the body again; brackets, commas and quotes that do not match never
do.
Rule 3: the rows say what Loki reads, but for a body that is `mixed`, where no raw bytes do.

Loki reads one value and ignores what follows it. v1: json-iterator finds the streams, and
jsonparser reads each of them. legacy: json-iterator, and encoding/json for the metadata.
What else they do is said where it matters. reference_json.py is the same in Python.

Source: Loki v3.7.8 pkg/loghttp/query.go, pkg/util/unmarshal, pkg/util/entry_size.go,
pkg/push/types.go; json-iterator v1.1.12; grafana/jsonparser at 023329977675.
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memset

from sluice._json_text cimport (
    ASCII_FOLD, COERCED, EXACT, GO_FOLD, GREEDY, PAIRED, Json, Text, fail, hash_name, is_name,
    is_same, read_string,
)
from sluice._json_token cimport (
    mistyped, more, peek, read_key, skip_value, take_null, take_open, take_string,
)
from sluice._scan cimport (
    BAD_TIME_NS, BAD_TIME_TEXT, OK, STREAM_AT, STREAM_BODY, STREAM_COLUMNS, STREAM_COUNT,
    STREAM_END, STREAM_FIRST, STREAM_LABELS, STREAM_LABELS_END, STREAM_SIZE, Found, add_entry,
    open_stream,
)
from sluice._time cimport is_time_ns, is_time_text

cdef enum:
    NAMES_MAX = 128        # legacy: names of an entry's metadata that later ones are held against
    # json_entry_parts
    TIME_AT = 0
    TIME_END = 1
    LINE_AT = 2
    LINE_END = 3
    PARTS = 4

cdef struct Pair:
    Text name
    uint64_t hashed
    int64_t size           # as billed


cdef inline int64_t billed(
    Json *c, const Text *name, const Text *value, int grammar
) noexcept nogil:
    """What Loki bills for a pair of structured metadata."""
    if is_name(c.body, name, grammar, b"detected_level", EXACT):
        return 0
    return name.size + value.size


cdef inline int64_t scan_pairs(Json *c) noexcept nogil:
    """v1 structured metadata; its size. A name that comes twice is billed twice."""
    cdef Text name, value
    cdef int64_t size = 0
    cdef int64_t i = 0
    take_open(c, c'{')
    while more(c, c'}', i):
        i += 1
        if read_key(c, PAIRED, &name) and take_string(c, PAIRED, &value):
            size += billed(c, &name, &value, PAIRED)
    return size


cdef inline int64_t place(Json *c, const Pair *seen, int64_t n, const Pair *pair) noexcept nogil:
    """Where among `n` pairs this one's name is, or n.

    Only the first with the same hash is compared. A sender can make names that collide, and to
    compare each with all took 128 times as long; such a name is billed each time.
    """
    cdef int64_t i
    for i in range(n):
        if seen[i].hashed == pair.hashed:
            return i if is_same(c.body, &seen[i].name, &pair.name, COERCED) else n
    return n


cdef inline int64_t scan_map(Json *c) noexcept nogil:
    """Legacy structured metadata; its size. Of pairs with the same name the last is billed.

    Names beyond the first NAMES_MAX are billed each time; so many Loki drops by default.
    """
    cdef Pair seen[NAMES_MAX]
    cdef Pair pair
    cdef Text value
    cdef int64_t size = 0
    cdef int64_t known = 0
    cdef int64_t at
    cdef int64_t i = 0
    if take_null(c):
        return 0
    take_open(c, c'{')
    while more(c, c'}', i):
        i += 1
        memset(&value, 0, sizeof(Text))
        if not read_key(c, COERCED, &pair.name):
            break
        if not take_null(c) and not take_string(c, COERCED, &value):
            break
        pair.size = billed(c, &pair.name, &value, COERCED)
        pair.hashed = hash_name(c.body, &pair.name, COERCED)
        at = place(c, seen, known, &pair)
        size += pair.size - (seen[at].size if at < known else 0)
        if at < NAMES_MAX:
            seen[at] = pair
            known = max(known, at + 1)
    return size


cdef inline int64_t scan_array_entry(Json *c, int64_t *part_out) noexcept nogil:
    """v1: [time, line, metadata]; its size. Loki reads the string "x]" like an empty list."""
    cdef Text text
    cdef int64_t size = 0
    cdef int64_t i = 0
    if peek(c) == c'"':
        read_string(c, GREEDY, &text)
        return 0
    take_open(c, c'[')
    while more(c, c']', i):
        if i == 0:
            take_string(c, GREEDY, &text)
            part_out[TIME_AT] = text.at
            part_out[TIME_END] = text.end
            if c.code == OK and not is_time_ns(c.body + text.at, text.end - text.at):
                c.at = text.at
                fail(c, BAD_TIME_NS)
        elif i == 1:
            take_string(c, PAIRED, &text)
            part_out[LINE_AT] = text.at
            part_out[LINE_END] = text.end
            size = text.size
        elif i == 2:
            size += scan_pairs(c)
        else:
            skip_value(c)
        i += 1
    return size


cdef inline int64_t scan_object_entry(Json *c, int64_t *part_out) noexcept nogil:
    """legacy: {"ts": time, "line": line, "structuredMetadata": metadata}, or null; its size."""
    cdef Text key, text
    cdef int64_t line = 0
    cdef int64_t metadata = 0
    cdef int64_t i = 0
    if take_null(c):
        return 0
    take_open(c, c'{')
    while more(c, c'}', i):
        i += 1
        if not read_key(c, GREEDY, &key):
            break
        if is_name(c.body, &key, GREEDY, b"ts", GO_FOLD):
            if not take_null(c):
                take_string(c, GREEDY, &text)
                part_out[TIME_AT] = text.at
                part_out[TIME_END] = text.end
                if c.code == OK and not is_time_text(c.body + text.at, text.end - text.at, &c.time):
                    c.at = text.at
                    fail(c, BAD_TIME_TEXT)
        elif is_name(c.body, &key, GREEDY, b"line", GO_FOLD):
            memset(&text, 0, sizeof(Text))
            if not take_null(c):
                take_string(c, GREEDY, &text)
            part_out[LINE_AT] = text.at
            part_out[LINE_END] = text.end
            line = text.size
        elif is_name(c.body, &key, GREEDY, b"structuredmetadata", GO_FOLD):
            metadata = scan_map(c)
        else:
            skip_value(c)
    return line + metadata


cdef inline int64_t scan_entry(Json *c, int64_t *part_out) noexcept nogil:
    return scan_object_entry(c, part_out) if c.legacy else scan_array_entry(c, part_out)


cdef inline void scan_entries(Json *c, Found *found, int64_t *row) noexcept nogil:
    """The entries of one stream, or null. A second list replaces the first.

    Not so in the legacy dialect: json-iterator reads the second list over the first one's
    entries, which keep what the second does not name. No raw bytes say that: it is mixed.
    """
    cdef int64_t part[PARTS]
    cdef Text text
    cdef int64_t at, size
    cdef int64_t before = row[STREAM_COUNT]
    cdef int64_t i = 0
    cdef bint is_null = take_null(c)
    if is_null and not c.legacy:
        return
    row[STREAM_FIRST] = found.entries
    row[STREAM_COUNT] = row[STREAM_SIZE] = 0
    if is_null:
        return
    if not c.legacy and peek(c) == c'"':
        # jsonparser reads a string as a list, but one that can hold no line: "x]"
        read_string(c, GREEDY, &text)
        return
    take_open(c, c'[')
    while more(c, c']', i):
        i += 1
        peek(c)
        at = c.at
        found.is_mixed |= c.legacy and before > 0
        if c.legacy or not take_null(c):
            found.in_entry = i - 1
            size = scan_entry(c, part)
            if c.code == OK:
                found.in_entry = -1
            add_entry(found, at, c.at, size)
            row[STREAM_COUNT] += 1
            row[STREAM_SIZE] += size


cdef inline void scan_labels(Json *c, int64_t *row) noexcept nogil:
    """v1: an object, or a string, of which jsonparser reads "{}". legacy: a string, or null."""
    cdef Text text
    cdef int byte = peek(c)
    memset(&text, 0, sizeof(Text))
    if c.legacy:
        if not take_null(c):
            take_string(c, GREEDY, &text)
    elif byte == c'{' or byte == c'"':
        text.at = c.at
        skip_value(c)
        text.end = c.at
    else:
        mistyped(c)
    row[STREAM_LABELS] = text.at
    row[STREAM_LABELS_END] = text.end


cdef inline void scan_members(Json *c, Found *found, int64_t *row) noexcept nogil:
    """What is inside a stream's braces. Names are folded in the legacy dialect only."""
    cdef const char *labels = b"labels" if c.legacy else b"stream"
    cdef const char *entries = b"entries" if c.legacy else b"values"
    cdef int fold = ASCII_FOLD if c.legacy else EXACT
    cdef Text key
    cdef int64_t i = 0
    take_open(c, c'{')
    while more(c, c'}', i):
        i += 1
        if not read_key(c, GREEDY, &key):
            break
        if is_name(c.body, &key, GREEDY, labels, fold):
            scan_labels(c, row)
        elif is_name(c.body, &key, GREEDY, entries, fold):
            scan_entries(c, found, row)
        else:
            skip_value(c)


cdef inline void scan_stream(Json *c, Found *found) noexcept nogil:
    """One stream. A second "streams" list is read over the rows of the first, as Loki does."""
    cdef int64_t spare[STREAM_COLUMNS]
    cdef int64_t *row = open_stream(found)
    if row == NULL:
        row = spare
    if row == spare or c.legacy or found.streams > c.earlier:
        memset(row, 0, sizeof(spare))
        row[STREAM_FIRST] = found.entries
    peek(c)
    row[STREAM_AT] = row[STREAM_BODY] = c.at
    if not (c.legacy and take_null(c)):
        scan_members(c, found, row)
    row[STREAM_END] = c.at


cdef inline void scan_streams(Json *c, Found *found) noexcept nogil:
    """A list of streams, or null, which like an empty list forgets the lists before it."""
    found.streams = 0
    if not take_null(c):
        take_open(c, c'[')
        while more(c, c']', found.streams):
            found.is_mixed |= c.legacy and c.earlier > 0
            scan_stream(c, found)
            if c.code == OK:
                found.in_stream = -1
    c.earlier = max(c.earlier, found.streams) if found.streams else 0


cdef inline int scan_json(Found *found, const uint8_t *body, int64_t n, bint legacy) noexcept nogil:
    """Fill `found` from one pass over the body: OK, or a code with `found.at` at the culprit.

    An entry row that no stream row points to is one that a repeated key has replaced. Where
    `found.is_mixed` comes out true, Loki would read more from the body than the rows say:
    split_json's body has what they say.
    """
    cdef Json c = Json(body=body, n=n, at=0, code=OK, legacy=legacy, earlier=0, time=NULL)
    cdef Text key
    cdef int64_t i = 0
    found.streams = found.entries = 0
    found.is_mixed = False
    if not take_null(&c):
        take_open(&c, c'{')
        while more(&c, c'}', i):
            i += 1
            if not read_key(&c, GREEDY, &key):
                break
            if is_name(body, &key, GREEDY, b"streams", ASCII_FOLD):
                scan_streams(&c, found)
            else:
                skip_value(&c)
    found.at = c.at
    return c.code


cdef inline int json_entry_parts(
    const uint8_t *body, int64_t at, int64_t end, bint legacy, int64_t *parts_out
) noexcept nogil:
    """Where the time and the line are in an entry that scan_json has accepted.

    Args:
        parts_out: [4], raw ranges between the quotes: time, line; zeros where there is none.
    """
    cdef Json c = Json(body=body, n=end, at=at, code=OK, legacy=legacy, earlier=0, time=NULL)
    memset(parts_out, 0, PARTS * sizeof(int64_t))
    scan_entry(&c, parts_out)
    return c.code
