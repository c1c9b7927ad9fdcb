"""Timestamps that Loki's parsers refuse. One of them makes Loki refuse the whole push.

Rule 1: nothing here allocates, raises or touches a Python object.
Rule 2: no stricter than Loki, which reads pushes with grafana/jsonparser's ParseInt (v1), with
time.UnmarshalJSON of Go 1.26 (legacy; it falls back on a lenient Parse), and with gogo/protobuf's
StdTimeUnmarshal. What a Loki may take is left for Loki to judge.

reference_push.py and reference_json.py have the same in Python.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef extern from *:
    # eight bytes of text as a word (see _hash.pxd on machines)
    const uint64_t ZEROS "UINT64_C(0x3030303030303030)"
    const uint64_t SIXES "UINT64_C(0x0606060606060606)"
    const uint64_t HIGH_HALVES "UINT64_C(0xF0F0F0F0F0F0F0F0)"
    # which of them are no digits, and what they are: 0000-00-  00T00:00  00:00:00
    const uint64_t DATE_MASK "UINT64_C(0xFF0000FF00000000)"
    const uint64_t DATE "UINT64_C(0x2D00002D00000000)"
    const uint64_t TIME_MASK "UINT64_C(0x0000FF0000FF0000)"
    const uint64_t DAY_TIME "UINT64_C(0x00003A0000540000)"
    const uint64_t TIME "UINT64_C(0x00003A00003A0000)"
    # 0001-01-01 and 10000-01-01
    const int64_t SECONDS_MIN "INT64_C(-62135596800)"
    const int64_t SECONDS_END "INT64_C(253402300800)"

cdef enum:
    NANOS_END = 1000000000
    DIGITS_MAX = 19        # of an int64
    SHORT_TEXT = 19        # 2026-11-22T12:00:00, or an hour of one digit and a zone


cdef inline bint is_in_time(int64_t seconds, int32_t nanos) noexcept nogil:
    """Whether a protobuf Timestamp is in the years 1 to 9999."""
    return SECONDS_MIN <= seconds < SECONDS_END and 0 <= nanos < NANOS_END


cdef inline uint64_t word_at(const uint8_t *text) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, text, sizeof(word))
    return word


cdef inline uint64_t strangers(uint64_t word, uint64_t mask, uint64_t literal) noexcept nogil:
    """0 if the bytes in `mask` are those of `literal`, and all others are digits."""
    # A digit's high half is 3, also after adding 6 to it; what that carries was no digit anyway.
    cdef uint64_t other = word + (SIXES & ~mask)
    return ((word ^ literal) & mask) | (((word ^ ZEROS) | (other ^ ZEROS)) & HIGH_HALVES & ~mask)


cdef inline bint are_digits(const uint8_t *text, int64_t n) noexcept nogil:
    """Whether `n` bytes are all digits; eight at a time."""
    cdef int64_t at = 0
    if n == DIGITS_MAX:
        return (
            strangers(word_at(text), 0, 0) | strangers(word_at(text + 8), 0, 0)
            | strangers(word_at(text + DIGITS_MAX - 8), 0, 0)) == 0
    while n - at >= 8:
        if strangers(word_at(text + at), 0, 0):
            return False
        at += 8
    while at < n:
        if not c'0' <= text[at] <= c'9':
            return False
        at += 1
    return True


cdef inline bint is_time_ns(const uint8_t *text, int64_t n) noexcept nogil:
    """Whether a text is an int64 as jsonparser reads it: a lone "-" is 0, "00" and "+1" are bad."""
    cdef bint is_negative
    if n == 0:
        return False
    is_negative = text[0] == c'-'
    if is_negative:
        text += 1
        n -= 1
    if n > DIGITS_MAX or not are_digits(text, n) or (n > 1 and text[0] == c'0'):
        return False
    if n < DIGITS_MAX or text[0] < c'9':
        return True
    return memcmp(
        text, b"9223372036854775808" if is_negative else b"9223372036854775807", DIGITS_MAX) <= 0


cdef inline int number_at(const uint8_t *text) noexcept nogil:
    """The number that two digits make."""
    return (text[0] - c'0') * 10 + (text[1] - c'0')


cdef inline int days_in(int month, int year) noexcept nogil:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31


cdef inline bint is_date(const uint8_t *text) noexcept nogil:
    """Whether digits in the places of YYYY-MM-DD are a day."""
    cdef int month = number_at(text + 5)
    cdef int day = number_at(text + 8)
    if not (1 <= month <= 12 and 1 <= day):
        return False
    return day <= 28 or day <= days_in(month, number_at(text) * 100 + number_at(text + 2))


cdef inline bint is_zone(const uint8_t *text, int64_t n) noexcept nogil:
    """Whether a text is a fraction of a second, or none, and a zone."""
    cdef int64_t at = 0
    if n and (text[0] == c'.' or text[0] == c','):
        at = 1
        while n - at >= 8 and strangers(word_at(text + at), 0, 0) == 0:
            at += 8
        while at < n and c'0' <= text[at] <= c'9':
            at += 1
        if at == 1:
            return False
    if n - at == 1:
        return text[at] == c'Z'
    if n - at != 6 or (text[at] != c'+' and text[at] != c'-') or text[at + 3] != c':':
        return False
    return are_digits(text + at + 1, 2) and are_digits(text + at + 4, 2)


cdef inline bint is_time_of_day(const uint8_t *text) noexcept nogil:
    """Whether 19 bytes are YYYY-MM-DDThh:mm:ss."""
    if (
        strangers(word_at(text), DATE_MASK, DATE)
        | strangers(word_at(text + 8), TIME_MASK, DAY_TIME)
        | strangers(word_at(text + 11), TIME_MASK, TIME)
    ):
        return False
    return (
        is_date(text) and number_at(text + 11) <= 23 and number_at(text + 14) <= 59
        and number_at(text + 17) <= 59)


cdef inline bint is_same_minute(const uint8_t *text, const uint8_t *taken) noexcept nogil:
    """Whether 19 bytes say the same minute as those that were taken, and a second of it."""
    return (
        word_at(text) == word_at(taken) and word_at(text + 8) == word_at(taken + 8)
        and strangers(word_at(text + 11), TIME_MASK, TIME) == 0 and text[17] <= c'5')


cdef inline bint is_time_text(
    const uint8_t *text, int64_t n, const uint8_t **taken
) noexcept nogil:
    """Whether a text is RFC 3339 as Go reads it: hours of one digit and decimal commas pass.

    `taken` is the last one of the push that was, or NULL: most are of the same minute.
    """
    cdef uint8_t usual[19]
    if n < SHORT_TEXT:
        return False
    if taken[0] != NULL and is_same_minute(text, taken[0]):
        return is_zone(text + SHORT_TEXT, n - SHORT_TEXT)
    if text[12] == c':':
        # an hour of one digit
        memcpy(usual, text, 11)
        usual[11] = c'0'
        memcpy(usual + 12, text + 11, 7)
        return is_time_of_day(usual) and is_zone(text + 18, n - 18)
    if not is_time_of_day(text):
        return False
    taken[0] = text
    return is_zone(text + SHORT_TEXT, n - SHORT_TEXT)
