"""The bytes of a decompressed record batch enter; the spans of its records and checksums leave, compiled.

Format: https://kafka.apache.org/documentation/#recordbatch
"""

from __future__ import annotations

import numpy as np

from consumers.eventlog.record_batches import (
    HEADERS,
    HEADERS_END,
    KEY,
    KEY_END,
    OFFSET,
    TIMESTAMP,
    VALUE,
    VALUE_END,
)
from streaming.kernels import crc_by_eight, crc_tables, inner, kernel

_CASTAGNOLI = crc_tables(0x82F63B78)


@kernel
def scan_records(
    data: np.ndarray, position: int, base_offset: int, first_timestamp: int, spans: np.ndarray
) -> int:
    """Write where the records of a decompressed batch lie.

    Args:
        data: bytes of the batch.
        position: at which its first record begins.
        base_offset, first_timestamp: of the batch.
        spans: (8, N) written.

    Returns:
        The position behind the last record, or -k where the k-th one is broken.
    """
    end = data.shape[0]
    newest = -1
    for k in range(spans.shape[1]):
        broken = -1 - k
        length, position = _varint(data, position, end)
        if position < 0 or length < 0 or length > end - position:
            return broken
        stop = position + length
        _, position = _varint(data, position, stop)  # attributes, of no use yet
        if position < 0:
            return broken
        timestamp, position = _varint(data, position, stop)
        if position < 0:
            return broken
        offset, position = _varint(data, position, stop)
        if position < 0:
            return broken
        if offset <= newest:  # the stock reader would pass them on; nothing below could make sense of them
            return broken
        newest = offset
        spans[OFFSET, k] = base_offset + offset
        spans[TIMESTAMP, k] = first_timestamp + timestamp
        spans[KEY, k], spans[KEY_END, k], position = _span(data, position, stop)
        if position < 0:
            return broken
        spans[VALUE, k], spans[VALUE_END, k], position = _span(data, position, stop)
        if position < 0:
            return broken
        spans[HEADERS, k], position = _headers(data, position, stop)
        if position != stop:
            return broken
        spans[HEADERS_END, k] = stop
    return position


@inner
def _headers(data: np.ndarray, position: int, end: int) -> tuple[int, int]:
    """Start of the headers and the position behind them, -1 where they are broken."""
    count, position = _varint(data, position, end)
    start = position
    if position < 0 or count < 0:
        return -1, -1
    for _ in range(count):
        name, _, position = _span(data, position, end)
        if position < 0 or name < 0:
            return -1, -1
        _, _, position = _span(data, position, end)
        if position < 0:
            return -1, -1
    return start, position


@inner
def _span(data: np.ndarray, position: int, end: int) -> tuple[int, int, int]:
    """Start and end of nullable bytes behind their length, and the position behind them (-1: broken)."""
    length, position = _varint(data, position, end)
    if position < 0 or length > end - position:
        return -1, -1, -1
    if length < 0:
        return -1, -1, position
    return position, position + length, position + length


@inner
def _varint(data: np.ndarray, position: int, end: int) -> tuple[int, int]:
    """A zigzag varint at `position`, and the position behind it; -1 there where it does not end."""
    bits = np.uint64(0)
    shift = np.uint64(0)
    while position < end and shift < np.uint64(64):
        byte = np.uint64(data[position])
        bits |= (byte & np.uint64(0x7F)) << shift
        position += 1
        if byte < np.uint64(0x80):
            return int(np.int64(bits >> np.uint64(1)) ^ -np.int64(bits & np.uint64(1))), position
        shift += np.uint64(7)
    return 0, -1


@kernel
def crc32c(data: np.ndarray, start: int, end: int) -> np.uint32:
    """CRC-32C of `data[start:end]` (RFC 3720, appendix B.4).

    >>> data = np.frombuffer(b"123456789", np.uint8)
    >>> crc32c(data, 0, 9) == 0xE3069283
    True
    """
    return crc_by_eight(data, start, end, _CASTAGNOLI)


@kernel
def differing_keys(
    data: np.ndarray,
    key_start: np.ndarray,
    key_end: np.ndarray,
    users: np.ndarray,
    user_start: np.ndarray,
    user_end: np.ndarray,
) -> int:
    """How many of N keys are there and are not the user's id, byte by byte; a start of -1 is no key."""
    differing = 0
    for k in range(key_start.shape[0]):
        start, length = key_start[k], key_end[k] - key_start[k]
        if start < 0:
            continue
        if length != user_end[k] - user_start[k]:
            differing += 1
            continue
        for b in range(length):
            if data[start + b] != users[user_start[k] + b]:
                differing += 1
                break
    return differing


def warm_batches() -> None:
    """Compile what reads record batches."""
    data = np.frombuffer(b"", np.uint8)
    spans = np.zeros((8, 0), np.int64)
    scan_records(data, 0, 0, 0, spans)
    crc32c(data, 0, 0)
    differing_keys(data, spans[KEY], spans[KEY_END], data, spans[KEY], spans[KEY_END])
