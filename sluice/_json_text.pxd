"""JSON strings: where one ends, and how many bytes of UTF-8 it is once unescaped.

Rule 1: nothing here allocates, raises or touches a Python object.
Rule 2: no byte at or behind `n` (or `end`) is read.
Rule 3: what Loki takes is taken, with Loki's size. Three parsers read the strings of a push
there, and they differ in what \\u escapes of surrogates mean; `Grammar` says whose turn it is.
Control characters are let through: json-iterator refuses them or not, depending on where its
512-byte buffer ends.

Source: Loki v3.7.8 pkg/loghttp/query.go and pkg/push/types.go; grafana/jsonparser escape.go;
json-iterator v1.1.12 iter_str.go; Go's encoding/json decode.go (unquote).
"""
from libc.stdint cimport UINT64_MAX, int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from sluice._scan cimport BAD_ESCAPE, UNFINISHED

cdef extern from * nogil:
    int trailing_zeros "__builtin_ctzll"(uint64_t word)

cdef enum Grammar:
    PAIRED                 # v1 (jsonparser): a surrogate must begin a pair, or the push is refused
    GREEDY                 # json-iterator: a half pair is U+FFFD and swallows the next \u escape
    COERCED                # encoding/json: a half pair is U+FFFD, and so is each bad byte of UTF-8

cdef enum Fold:
    EXACT
    ASCII_FOLD             # A-Z
    GO_FOLD                # also U+0130, which Go lowers to a plain i

cdef enum:
    SHORT_ESCAPE = 2       # \n
    LONG_ESCAPE = 6        # \u000a
    PAIR_ESCAPE = 12       # \ud83d\ude00
    HIGH_SURROGATE = 0xD800
    LOW_SURROGATE = 0xDC00
    SURROGATE_END = 0xE000
    SURROGATE_BITS = 10
    PLANE_SIZE = 0x10000
    POINT_MAX = 0x10FFFF
    REPLACEMENT = 0xFFFD
    REPLACEMENT_SIZE = 3
    DOTTED_I = 0x130
    CASE_BIT = 0x20
    FNV_OFFSET = 0x811C9DC5
    FNV_PRIME = 0x1000193

cdef struct Json:
    const uint8_t *body
    int64_t n
    int64_t at             # after an error: the culprit
    int code               # the first error; once there is one, nothing is read any more
    bint legacy
    int64_t earlier        # stream rows that an earlier "streams" list has left
    const uint8_t *time    # legacy: the last timestamp that was taken, or NULL

cdef struct Text:
    int64_t at             # between the quotes
    int64_t end
    int64_t size           # bytes of UTF-8 once unescaped


cdef inline int64_t find_special(const uint8_t *body, int64_t at, int64_t n) noexcept nogil:
    """The offset of the next quote or backslash, or n.

    Eight bytes at a time; the first in memory is the lowest (see _hash.pxd on machines).
    """
    cdef uint64_t ones = UINT64_MAX // 0xFF
    cdef uint64_t word, quote, slash, hit
    while n - at >= <int64_t>sizeof(word):
        memcpy(&word, body + at, sizeof(word))
        quote = word ^ (ones * c'"')
        slash = word ^ (ones * c'\\')
        # the top bit of each byte that is zero, and by borrowing perhaps of one above it
        hit = (((quote - ones) & ~quote) | ((slash - ones) & ~slash)) & (ones << 7)
        if hit:
            return at + trailing_zeros(hit) // 8
        at += sizeof(word)
    while at < n and body[at] != c'"' and body[at] != c'\\':
        at += 1
    return at


cdef inline int64_t utf8_size(int32_t point) noexcept nogil:
    """Bytes of UTF-8 for a code point; a surrogate's are those of U+FFFD."""
    if point < 0x80:
        return 1
    if point < 0x800:
        return 2
    return 3 if point < PLANE_SIZE else 4


cdef inline int32_t read_hex(const uint8_t *body, int64_t at, int64_t n) noexcept nogil:
    """The number that four hexadecimal digits make, or -1 where they are not four."""
    cdef int32_t value = 0
    cdef uint8_t digit
    cdef int64_t end = at + 4
    if end > n:
        return -1
    while at < end:
        digit = body[at]
        at += 1
        if c'0' <= digit <= c'9':
            value = value << 4 | (digit - c'0')
        elif c'a' <= (digit | CASE_BIT) <= c'f':
            value = value << 4 | ((digit | CASE_BIT) - c'a' + 10)
        else:
            return -1
    return value


cdef inline int32_t short_escape(uint8_t letter) noexcept nogil:
    """What a backslash and this letter stand for, or -1."""
    if letter == c'"' or letter == c'\\' or letter == c'/':
        return letter
    if letter == c'n':
        return c'\n'
    if letter == c't':
        return c'\t'
    if letter == c'r':
        return c'\r'
    if letter == c'b':
        return c'\b'
    return c'\f' if letter == c'f' else -1


cdef inline int64_t read_escape(
    const uint8_t *body, int64_t at, int64_t n, int grammar, int32_t *point_out, int64_t *size_out
) noexcept nogil:
    """Read the escape whose backslash is at `at`: its raw length, or 0 where Loki refuses it."""
    cdef int32_t point, second
    if at + 1 >= n:
        return 0
    if body[at + 1] != c'u':
        point_out[0] = short_escape(body[at + 1])
        size_out[0] = 1
        return SHORT_ESCAPE if point_out[0] >= 0 else 0
    point = read_hex(body, at + 2, n)
    if point < 0:
        return 0
    point_out[0] = point
    size_out[0] = utf8_size(point)
    if point < HIGH_SURROGATE or point >= SURROGATE_END:
        return LONG_ESCAPE
    point_out[0] = REPLACEMENT
    second = read_hex(body, at + LONG_ESCAPE + 2, n)
    if grammar == PAIRED:
        # jsonparser does not look at the two bytes before the second number, nor at its end
        if second < LOW_SURROGATE or body[at + LONG_ESCAPE] == c'"':
            return 0
        if body[at + LONG_ESCAPE + 1] == c'"' and body[at + LONG_ESCAPE] != c'\\':
            return 0
    elif second < 0 or body[at + LONG_ESCAPE] != c'\\' or body[at + LONG_ESCAPE + 1] != c'u':
        return LONG_ESCAPE
    elif point >= LOW_SURROGATE or not LOW_SURROGATE <= second < SURROGATE_END:
        if grammar == COERCED:
            return LONG_ESCAPE
        size_out[0] += utf8_size(second)
        return PAIR_ESCAPE
    point = PLANE_SIZE + ((point - HIGH_SURROGATE) << SURROGATE_BITS) + second - LOW_SURROGATE
    if point <= POINT_MAX:
        point_out[0] = point
        size_out[0] = utf8_size(point)
    return PAIR_ESCAPE


cdef inline int32_t read_utf8(const uint8_t *body, int64_t *at, int64_t end) noexcept nogil:
    """Read one code point of UTF-8; -1, and one byte further, where there is none."""
    cdef uint8_t lead = body[at[0]]
    cdef int64_t i, more = 0
    cdef int32_t point = lead
    if lead >= 0x80:
        more = 1 if lead < 0xE0 else 2 if lead < 0xF0 else 3
        point = lead & (0x3F >> more)
        if lead < 0xC2 or lead > 0xF4 or end - at[0] <= more:
            more = 0
            point = -1
        for i in range(1, more + 1):
            if body[at[0] + i] & 0xC0 != 0x80:
                more = 0
                point = -1
                break
            point = point << 6 | (body[at[0] + i] & 0x3F)
        if HIGH_SURROGATE <= point < SURROGATE_END or point > POINT_MAX or (
            more and utf8_size(point) != more + 1
        ):
            more = 0
            point = -1
    at[0] += more + 1
    return point


cdef inline int64_t coerced_growth(const uint8_t *body, int64_t at, int64_t end) noexcept nogil:
    """How much longer the text gets when each bad byte of UTF-8 becomes U+FFFD."""
    cdef int64_t growth = 0
    while at < end:
        if read_utf8(body, &at, end) < 0:
            growth += REPLACEMENT_SIZE - 1
    return growth


cdef inline bint fail(Json *c, int code) noexcept nogil:
    """Note that the byte at the cursor cannot be there; False, for the caller to pass on."""
    c.code = code
    return False


cdef inline bint read_string(Json *c, int grammar, Text *text_out) noexcept nogil:
    """Read the string whose opening quote is at the cursor, which moves behind the closing one."""
    cdef const uint8_t *body = c.body
    cdef int64_t n = c.n
    cdef int64_t start = c.at + 1
    cdef int64_t at = find_special(body, start, n)
    cdef int64_t saved = 0
    cdef int64_t raw, size
    cdef int32_t point
    while at < n and body[at] != c'"':
        raw = read_escape(body, at, n, grammar, &point, &size)
        if raw == 0:
            c.at = at
            return fail(c, BAD_ESCAPE)
        saved += raw - size
        at = find_special(body, at + raw, n)
    c.at = at
    if at == n:
        return fail(c, UNFINISHED)
    text_out.at = start
    text_out.end = at
    text_out.size = at - start - saved
    if grammar == COERCED:
        text_out.size += coerced_growth(body, start, at)
    c.at = at + 1
    return True


cdef inline int32_t next_point(
    const uint8_t *body, int64_t *at, int64_t end, int grammar
) noexcept nogil:
    """The next code point of a text that read_string has accepted."""
    cdef int32_t point = REPLACEMENT
    cdef int64_t size
    if body[at[0]] == c'\\':
        at[0] += read_escape(body, at[0], end, grammar, &point, &size)
        return point
    point = read_utf8(body, at, end)
    return REPLACEMENT if point < 0 else point


cdef inline bint is_name(
    const uint8_t *body, const Text *text, int grammar, const char *name, int fold
) noexcept nogil:
    """Whether the text, once unescaped and folded, is this name (ASCII, lower case to fold)."""
    cdef int64_t at = text.at
    cdef int32_t point
    while at < text.end:
        point = next_point(body, &at, text.end, grammar)
        if fold != EXACT and c'A' <= point <= c'Z':
            point |= CASE_BIT
        elif fold == GO_FOLD and point == DOTTED_I:
            point = c'i'
        if name[0] == 0 or point != name[0]:
            return False
        name += 1
    return name[0] == 0


cdef inline uint64_t hash_name(const uint8_t *body, const Text *text, int grammar) noexcept nogil:
    """The same number for every way to write the same name."""
    cdef uint64_t hashed = FNV_OFFSET
    cdef int64_t at = text.at
    while at < text.end:
        hashed = (hashed ^ <uint64_t>next_point(body, &at, text.end, grammar)) * FNV_PRIME
    return hashed


cdef inline bint is_same(
    const uint8_t *body, const Text *a, const Text *b, int grammar
) noexcept nogil:
    """Whether two texts are the same once unescaped."""
    cdef int64_t i = a.at
    cdef int64_t j = b.at
    while i < a.end and j < b.end:
        if next_point(body, &i, a.end, grammar) != next_point(body, &j, b.end, grammar):
            return False
    return i == a.end and j == b.end
