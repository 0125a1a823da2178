"""Kernels over bytes: plain flat JSON objects enter, spans of ids and numbers leave.

A kernel decides only what it is certain of. Escapes, nested values, exponents,
long numbers, controls, broken UTF-8, anything unexpected: the record is marked
`SLOW` and left to `streaming.rules`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import kernel

# What a record was found to be.
SLOW, WHOLE, FRACTION, BLANK, BAD = 0, 1, 2, 3, 4  # doubtful; event with integer ts; with decimal ts; …

# Forms of a JSON value; the two numeric ones are named as above.
_TEXT, _NULL, _BOOL = 3, 4, 5

# Table of words: the five field names, three literals, then the event types.
_LITERALS, _TYPES = 5, 8
LITERALS = (b"null", b"true", b"false")

_POWERS = 10.0 ** np.arange(19)  # exact in float64


@kernel
def _character(data: NDArray[np.uint8], p: int, end: int) -> int:
    """Bytes of the character ≥ U+00A0 at p; 0 where it is broken UTF-8 or a C1 control (RFC 3629)."""
    c = data[p]
    if c < 0xC2 or c > 0xF4:
        return 0
    n = 2 if c < 0xE0 else 3 if c < 0xF0 else 4
    if p + n > end:
        return 0
    for q in range(p + 1, p + n):
        if data[q] & 0xC0 != 0x80:
            return 0
    d = data[p + 1]
    low = 0xA0 if c == 0xC2 or c == 0xE0 else 0x90 if c == 0xF0 else 0x80
    high = 0x9F if c == 0xED else 0x8F if c == 0xF4 else 0xBF
    return n if low <= d <= high else 0


@kernel
def _string_end(data: NDArray[np.uint8], p: int, end: int) -> int:
    """Index of the quote that closes the string whose first byte is at p; -1 where it is not plain."""
    while p < end:
        c = data[p]
        if c == 34:  # "
            return p
        if c < 32 or c == 92 or c == 127:
            return -1
        step = 1 if c < 128 else _character(data, p, end)
        if step == 0:
            return -1
        p += step
    return -1


@kernel
def _space_end(data: NDArray[np.uint8], p: int, end: int) -> int:
    while p < end and (data[p] == 32 or data[p] == 9 or data[p] == 13 or data[p] == 10):
        p += 1
    return p


@kernel
def _after(data: NDArray[np.uint8], p: int, end: int, character: int) -> int:
    """Index after white space, the character and more white space; -1 where it is not there."""
    p = _space_end(data, p, end)
    return _space_end(data, p + 1, end) if p < end and data[p] == character else -1


@kernel
def _number(data: NDArray[np.uint8], p: int, end: int) -> tuple[int, np.int64, int]:
    """(index after the number, mantissa, decimals); decimals -1 for an integer, index -1 if not plain."""
    negative = data[p] == 45
    if negative:
        p += 1
    first = p
    point = -1
    mantissa = np.int64(0)
    while p < end:
        c = data[p]
        if 48 <= c <= 57:
            mantissa = mantissa * 10 + (np.int64(c) - 48)
        elif c == 46 and point < 0:
            point = p
        else:
            break
        p += 1
    digits = p - first if point < 0 else p - first - 1
    whole = (p if point < 0 else point) - first
    if digits == 0 or digits > 18 or whole == 0 or point == p - 1 or (data[first] == 48 and whole > 1):
        return -1, mantissa, 0
    if negative and mantissa == 0:  # -0 is the integer 0, -0.0 is not
        return -1, mantissa, 0
    return p, -mantissa if negative else mantissa, -1 if point < 0 else p - point - 1


@kernel
def _word(
    data: NDArray[np.uint8],
    p: int,
    q: int,
    words: NDArray[np.uint8],
    bounds: NDArray[np.int64],
    first: int,
    last: int,
) -> int:
    """Which of the words first … last - 1 the bytes p … q - 1 are, -1 if none."""
    for w in range(first, last):
        a = bounds[w]
        if bounds[w + 1] - a != q - p:
            continue
        k = 0
        while k < q - p and data[p + k] == words[a + k]:
            k += 1
        if k == q - p:
            return w
    return -1


@kernel
def _value(
    data: NDArray[np.uint8], p: int, end: int, words: NDArray[np.uint8], bounds: NDArray[np.int64]
) -> tuple[int, int, int, np.int64, int]:
    """(form, its first byte, the index after its last, mantissa, decimals) of the value at p."""
    if data[p] == 34:
        last = _string_end(data, p + 1, end)
        return (_TEXT if last >= 0 else SLOW), p + 1, last, np.int64(0), -1
    if data[p] == 45 or 48 <= data[p] <= 57:
        last, mantissa, decimals = _number(data, p, end)
        form = SLOW if last < 0 else WHOLE if decimals < 0 else FRACTION
        return form, p, last, mantissa, decimals
    last = p
    while last < end and 97 <= data[last] <= 122:
        last += 1
    literal = _word(data, p, last, words, bounds, _LITERALS, _TYPES)
    form = SLOW if literal < 0 else _NULL if literal == _LITERALS else _BOOL
    return form, p, last, np.int64(0), -1


@kernel
def _scan_record(
    data: NDArray[np.uint8],
    p: int,
    end: int,
    words: NDArray[np.uint8],
    bounds: NDArray[np.int64],
    default_type: int,
    max_id: int,
    k: int,
    spans: NDArray[np.int64],
    whole: NDArray[np.int64],
    fraction: NDArray[np.float64],
    values: NDArray[np.float64],
    types: NDArray[np.int64],
) -> int:
    if _space_end(data, p, end) == end:
        return BLANK
    p = _after(data, p, end, 123)  # {
    last_word = bounds.shape[0] - 1
    found = SLOW
    seen = 0
    values[k] = 1.0
    types[k] = default_type
    while True:
        if p < 0 or p >= end or data[p] != 34:  # "
            return SLOW
        last = _string_end(data, p + 1, end)
        if last < 0:
            return SLOW
        field = _word(data, p + 1, last, words, bounds, 0, _LITERALS)
        p = _after(data, last + 1, end, 58)  # :
        if p < 0 or p >= end:
            return SLOW
        form, first, last, mantissa, decimals = _value(data, p, end, words, bounds)
        if form == SLOW:
            return SLOW
        p = last + 1 if form == _TEXT else last
        exact = -(2**53) < mantissa < 2**53
        if field == 0 or field == 1:
            if (form != _TEXT and form != WHOLE) or last == first or last - first > max_id:
                return SLOW
            spans[2 * field, k] = first
            spans[2 * field + 1, k] = last
            seen |= 1 << field
        elif field == 2:
            if (form != WHOLE and (form != FRACTION or not exact)) or mantissa < 0:
                return SLOW
            whole[k] = mantissa
            fraction[k] = mantissa / _POWERS[max(decimals, 0)]
            found = form
        elif field == 3:
            if form != _TEXT and form != _NULL:
                return SLOW
            word = _word(data, first, last, words, bounds, _TYPES, last_word)
            types[k] = default_type if form == _NULL else word - _TYPES
        elif field == 4:
            if form != WHOLE and form != _NULL and (form != FRACTION or not exact):
                return SLOW
            values[k] = 1.0 if form == _NULL else mantissa / _POWERS[max(decimals, 0)]
        following = _after(data, p, end, 44)  # ,
        if following < 0:
            break
        p = following
    ends = _after(data, p, end, 125) == end  # }
    return found if ends and seen == 3 else SLOW


@kernel
def scan(
    data: NDArray[np.uint8],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    words: NDArray[np.uint8],
    bounds: NDArray[np.int64],
    default_type: int,
    max_id: int,
    max_record: int,
    kind: NDArray[np.uint8],
    spans: NDArray[np.int64],
    whole: NDArray[np.int64],
    fraction: NDArray[np.float64],
    values: NDArray[np.float64],
    types: NDArray[np.int64],
) -> None:
    """Read N records; record k is `data[start[k]:end[k]]`.

    Args:
        words, bounds: word w is `words[bounds[w]:bounds[w + 1]]`: names of user, item, ts, type and
            value, the literals, then the known event types.
        default_type: what a record without a type gets.
        kind: (N,) out: SLOW, WHOLE, FRACTION or BLANK; the columns below hold for WHOLE and FRACTION.
        spans: (4, N) out: start and end of the user, start and end of the item.
        whole, fraction: (N,) out: the time as written; `whole` for WHOLE.
        values: (N,) out: 1 where missing.
        types: (N,) out: index among the known types, negative for another one.
    """
    for k in range(start.shape[0]):
        kind[k] = SLOW
        if end[k] - start[k] <= max_record:
            kind[k] = _scan_record(
                data, start[k], end[k], words, bounds, default_type, max_id, k,
                spans, whole, fraction, values, types,
            )  # fmt: skip


@kernel
def plain_ids(
    data: NDArray[np.uint8],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    max_id: int,
    plain: NDArray[np.bool_],
) -> None:
    """Set plain[k] where bytes start[k] … end[k] - 1 are a valid id: UTF-8, no control, 1 … max_id bytes."""
    for k in range(start.shape[0]):
        p = start[k]
        good = 0 < end[k] - p <= max_id
        while good and p < end[k]:
            c = data[p]
            step = 1 if 32 <= c < 127 else 0 if c < 128 else _character(data, p, end[k])
            good = step > 0
            p += step
        plain[k] = good
