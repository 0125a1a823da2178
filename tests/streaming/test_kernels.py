"""Shared arithmetic against independent definitions."""

from __future__ import annotations

import math
import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streaming.kernels import crc32, hash_bytes, mix, random_below, random_bits, random_normal

MASK = (1 << 64) - 1
words = st.integers(0, MASK)


def slow_mix(z: int) -> int:
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
    return z ^ z >> 31


@given(st.binary(max_size=70), st.integers(0, 9), st.integers(0, 9))
def test_crc_equals_zlib_for_any_bytes_and_bounds(data: bytes, start: int, cut: int) -> None:
    array = np.frombuffer(b"." * start + data + b"." * cut, np.uint8)
    assert crc32(array, start, start + len(data)) == zlib.crc32(data)


@given(words)
def test_mix_is_the_finaliser_of_splitmix64(z: int) -> None:
    assert int(mix(np.uint64(z))) == slow_mix(z)


def test_sequence_of_a_key_is_splitmix64() -> None:
    """First outputs of splitmix64 from the seed 1234567, as in its reference implementation's tests."""
    drawn = [int(random_bits(np.uint64(1234567), k)) for k in range(3)]
    assert drawn == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.binary(min_size=1, max_size=40))
def test_hash_is_mixed_fnv_1a(data: bytes) -> None:
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & MASK
    assert int(hash_bytes(np.frombuffer(data, np.uint8), 0, len(data))) == slow_mix(h)


@given(words, st.integers(0, 2**31), st.integers(1, 2**31 - 1))
def test_random_integers_are_below_their_bound(key: int, counter: int, n: int) -> None:
    assert 0 <= random_below(np.uint64(key), counter, n) < n


def test_random_integers_are_uniform() -> None:
    counts = np.bincount([random_below(np.uint64(7), k, 10) for k in range(20_000)], minlength=10)
    assert np.abs(counts - 2000).max() < 5 * math.sqrt(1800)


def test_random_normals_have_the_moments_of_a_standard_normal() -> None:
    drawn = np.array([random_normal(np.uint64(3), k) for k in range(20_000)])
    assert np.isfinite(drawn).all()
    assert abs(drawn.mean()) < 0.03
    assert abs(drawn.std() - 1.0) < 0.02
    assert abs((np.abs(drawn) > 1.96).mean() - 0.05) < 0.008
