"""Steps through JSON: brackets, commas, names, and values that are of no interest.

Rule 1: nothing here allocates, raises, recurses or touches a Python object.
Rule 2: a leaf that fails leaves its code and the culprit's place in the cursor; `more` then
says no, which ends every loop, and the code is looked at once, when all is done.
Rule 3: no stricter than json-iterator, which takes null for an empty name. It checks numbers
more closely than is done here.

Source: json-iterator v1.1.12, iter.go, iter_skip_strict.go, iter_object.go, iter_array.go.
"""
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset

from sluice._json_text cimport GREEDY, Json, Text, fail, read_string
from sluice._scan cimport BAD_JSON, BAD_TYPE_JSON, OK, TOO_DEEP, UNFINISHED

cdef enum:
    END = -1               # peek: no byte is left
    JSON_DEPTH_MAX = 10000  # iter.go; its count starts outside of ours, so ours is no stricter


cdef inline int peek(Json *c) noexcept nogil:
    """The next byte that is not white space, which the cursor moves to; or END."""
    cdef int64_t at = c.at
    cdef uint8_t byte
    while at < c.n:
        byte = c.body[at]
        if byte != c' ' and byte != c'\n' and byte != c'\r' and byte != c'\t':
            c.at = at
            return byte
        at += 1
    c.at = at
    return END


cdef inline bint malformed(Json *c) noexcept nogil:
    """Fail: JSON cannot go on like this."""
    return fail(c, UNFINISHED if peek(c) == END else BAD_JSON)


cdef inline bint mistyped(Json *c) noexcept nogil:
    """Fail: no value, or one of a kind that cannot be here."""
    cdef int byte = peek(c)
    if c'0' <= byte <= c'9' or byte == c'-' or byte == c'"' or byte == c'{' or byte == c'[' or (
        byte == c't' or byte == c'f' or byte == c'n'
    ):
        return fail(c, BAD_TYPE_JSON)
    return malformed(c)


cdef inline bint more(Json *c, uint8_t closer, int64_t before) noexcept nogil:
    """Whether an item follows the `before` others; if not, the bracket is closed or all is lost."""
    cdef int byte
    if c.code != OK:
        return False
    byte = peek(c)
    if byte == closer:
        c.at += 1
        return False
    if before == 0:
        return True
    if byte != c',':
        return malformed(c)
    c.at += 1
    return True


cdef inline bint take_open(Json *c, uint8_t bracket) noexcept nogil:
    if peek(c) != bracket:
        return mistyped(c)
    c.at += 1
    return True


cdef inline bint take_word(Json *c, const char *word) noexcept nogil:
    cdef int64_t at = c.at
    while word[0]:
        if at == c.n or c.body[at] != <uint8_t>word[0]:
            return fail(c, BAD_JSON)
        at += 1
        word += 1
    c.at = at
    return True


cdef inline bint take_null(Json *c) noexcept nogil:
    """Whether the next value is null, which is then behind the cursor (unless misspelt)."""
    if peek(c) != c'n':
        return False
    take_word(c, b"null")
    return True


cdef inline bint take_string(Json *c, int grammar, Text *text_out) noexcept nogil:
    memset(text_out, 0, sizeof(Text))
    if peek(c) != c'"':
        return mistyped(c)
    return read_string(c, grammar, text_out)


cdef inline bint read_key(Json *c, int grammar, Text *key_out) noexcept nogil:
    """Read a member's name and its colon."""
    cdef int byte = peek(c)
    memset(key_out, 0, sizeof(Text))
    if byte == c'"':
        read_string(c, grammar, key_out)
    elif byte == c'n':
        take_word(c, b"null")
    else:
        malformed(c)
    if c.code != OK:
        return False
    if peek(c) != c':':
        return malformed(c)
    c.at += 1
    return True


cdef inline bint skip_scalar(Json *c) noexcept nogil:
    """Step over a string, number or word."""
    cdef Text text
    cdef int byte = peek(c)
    if byte == c'"':
        return read_string(c, GREEDY, &text)
    if byte == c'n':
        return take_word(c, b"null")
    if byte == c't':
        return take_word(c, b"true")
    if byte == c'f':
        return take_word(c, b"false")
    if byte != c'-' and not c'0' <= byte <= c'9':
        return malformed(c)
    while c'0' <= byte <= c'9' or (
        byte == c'-' or byte == c'+' or byte == c'.' or byte == c'e' or byte == c'E'
    ):
        c.at += 1
        byte = c.body[c.at] if c.at < c.n else END
    return True


cdef inline void skip_value(Json *c) noexcept nogil:
    """Step over one value of any kind."""
    cdef uint8_t closer[JSON_DEPTH_MAX]
    cdef int64_t depth = 0
    cdef int64_t before
    cdef Text key
    cdef int byte
    while c.code == OK:
        byte = peek(c)
        before = 0 if byte == c'{' or byte == c'[' else 1
        if before:
            skip_scalar(c)
        elif depth == JSON_DEPTH_MAX:
            fail(c, TOO_DEEP)
        else:
            closer[depth] = c'}' if byte == c'{' else c']'
            depth += 1
            c.at += 1
        # out of every bracket that closes here
        while depth and not more(c, closer[depth - 1], before):
            depth -= 1
            before = 1
        if depth == 0:
            return
        if closer[depth - 1] == c'}':
            read_key(c, GREEDY, &key)
