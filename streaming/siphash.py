"""Keyed hashes of ids: a key and ids enter, 64 bits of each leave.

SipHash-2-4 of Aumasson and Bernstein (2012), section 2: who has not the key can neither tell what was
hashed nor make ids that collide. It takes some 40 ns an id.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streaming.events import Ids
from streaming.kernels import kernel


def hash_each(key: NDArray[np.uint64], ids: Ids) -> NDArray[np.uint64]:
    """(N,) hashes of ids.

    Args:
        key: (2,) words.

    >>> hash_each(np.zeros(2, np.uint64), Ids.of([b""])).tolist()
    [2202906307356721367]
    """
    out = np.empty(len(ids), np.uint64)
    _hash_each(key, ids.data, ids.start, ids.end, np.zeros(4, np.uint64), out)
    return out


@kernel
def _rotated(x: np.uint64, bits: int) -> np.uint64:
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


@kernel
def _round(v: NDArray[np.uint64]) -> None:
    v[0] += v[1]
    v[2] += v[3]
    v[1] = _rotated(v[1], 13) ^ v[0]
    v[3] = _rotated(v[3], 16) ^ v[2]
    v[0] = _rotated(v[0], 32)
    v[2] += v[1]
    v[0] += v[3]
    v[1] = _rotated(v[1], 17) ^ v[2]
    v[3] = _rotated(v[3], 21) ^ v[0]
    v[2] = _rotated(v[2], 32)


@kernel
def _word(data: NDArray[np.uint8], start: int, end: int) -> np.uint64:
    """Up to eight bytes, little-endian."""
    word = np.uint64(0)
    for k in range(start, end):
        word |= np.uint64(data[k]) << np.uint64(8 * (k - start))
    return word


@kernel
def _hash_one(
    key: NDArray[np.uint64], data: NDArray[np.uint8], start: int, end: int, v: NDArray[np.uint64]
) -> np.uint64:
    v[0] = key[0] ^ np.uint64(0x736F6D6570736575)
    v[1] = key[1] ^ np.uint64(0x646F72616E646F6D)
    v[2] = key[0] ^ np.uint64(0x6C7967656E657261)
    v[3] = key[1] ^ np.uint64(0x7465646279746573)
    length = end - start
    for at in range(start, end - length % 8, 8):
        word = _word(data, at, at + 8)
        v[3] ^= word
        _round(v)
        _round(v)
        v[0] ^= word
    word = _word(data, end - length % 8, end) | (np.uint64(length) << np.uint64(56))
    v[3] ^= word
    _round(v)
    _round(v)
    v[0] ^= word
    v[2] ^= np.uint64(0xFF)
    for _ in range(4):
        _round(v)
    return np.uint64(v[0] ^ v[1] ^ v[2] ^ v[3])


@kernel
def _hash_each(
    key: NDArray[np.uint64],
    data: NDArray[np.uint8],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    state: NDArray[np.uint64],
    out: NDArray[np.uint64],
) -> None:
    for i in range(start.shape[0]):
        out[i] = _hash_one(key, data, start[i], end[i], state)
