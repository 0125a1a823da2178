"""Keyed hashes equal the reference vectors of SipHash-2-4."""

from __future__ import annotations

import numpy as np

from streaming.events import Ids
from streaming.siphash import hash_each

# Of the reference implementation (vectors.h): key 00 01 … 0f, inputs of 0, 1, 2, 3 bytes 00 01 02.
VECTORS = ["310e0edd47db6f72", "fd67dc93c539f874", "5a4fa9d909806c0d", "2d7efbd796666785"]
PAPER = 0xA129CA6149BE45E5  # appendix A of the paper: the same key, 15 bytes


def test_hashes_equal_the_reference_vectors() -> None:
    key = np.frombuffer(bytes(range(16)), "<u8").astype(np.uint64)
    found = hash_each(key, Ids.of([bytes(range(n)) for n in range(4)]))
    assert [word.astype("<u8").tobytes().hex() for word in found] == VECTORS
    assert int(hash_each(key, Ids.of([bytes(range(15))]))[0]) == PAPER
