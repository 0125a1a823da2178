"""Compiled functions: how they are made and cached, and the arithmetic that they share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from numba import types
from numba.core.dispatcher import Dispatcher
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])

# Sums may be reordered, so that they run in SIMD lanes; NaN and infinity keep their meaning.
_REORDERED = {"reassoc", "contract", "nsz"}


def cache_home() -> Path:
    """Directory of the compiled kernels: `NUMBA_CACHE_DIR`, else `~/.cache/freshet/kernels`."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    base = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(given) if given else base / "freshet" / "kernels"


@cache
def _bytes_digest(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


def _digest(function: Callable[..., Any], seen: set[str]) -> bytes:
    """Digest of the file of a function and of those whose kernels it sees.

    Numba notices a change of the function's own file only, and would go on with the old code of
    a kernel that it calls.
    """
    path = function.__code__.co_filename
    if path in seen:
        return b""
    seen.add(path)
    called = {
        v.py_func.__code__.co_filename: v for v in function.__globals__.values() if isinstance(v, Dispatcher)
    }
    inner = b"".join(_digest(called[p].py_func, seen) for p in sorted(called))
    return hashlib.sha256(_bytes_digest(path) + inner).digest()


def kernel(function: F) -> F:
    """Compile with numba at the first call; releases the GIL; cached on disk, unless it takes a model.

    A cache names the types that a function was compiled for. That of a function which any learner may
    call could not be read any more once a learner is gone; loops bound to one learner are `cached`.
    """
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return _compiled(function, forceinline=True) if "model" in names else cached(function)


def cached(function: F) -> F:
    """As `kernel`, cached on disk by the sources that the function depends on."""
    numba.config.CACHE_DIR = str(cache_home() / _digest(function, set()).hex()[:16])  # type: ignore[attr-defined]
    return _compiled(function, cache=True)


def compiled_before(function: Callable[..., Any]) -> bool:
    """Whether a `cached` function's code lies on this machine's disk already."""
    path = function.stats.cache_path  # type: ignore[attr-defined]
    return path is not None and any(Path(path).glob(f"*{function.__qualname__}*.nbc"))


def inner(function: F) -> F:
    """As `kernel`, for what only kernels call: no entry from Python, and kept as a part of its callers."""
    return _compiled(function, no_cpython_wrapper=True, forceinline=True)


def reduction(function: F) -> F:
    """As `inner`, for a sum in a loop that only reads: it may be reordered.

    See `streaming/learners/reductions.py` for why nothing else may.
    """
    return _compiled(function, no_cpython_wrapper=True, forceinline=True, fastmath=_REORDERED)


def _compiled(function: F, **how: Any) -> F:
    # No reference counting: kernels allocate nothing, and counting the arrays of a model, atomically and at
    # each call, costs more than a step of 64 floats. Where `forceinline` stands, it is for the same reason:
    # a model is some 250 words, and a call that LLVM leaves a call copies all of them, 0.5 µs or more.
    jit: Any = numba.njit
    compiled: F = jit(nogil=True, error_model="numpy", no_cfunc_wrapper=True, _nrt=False, **how)(function)
    return compiled


def _fence(ordering: str) -> Any:
    """A function for kernels that keeps reads and writes on their side of it."""

    def typed(typing: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            builder.fence(ordering)
            return context.get_dummy_value()

        return types.void(), code

    return intrinsic(typed)


_release, _acquire = _fence("release"), _fence("acquire")


@inner
def release() -> None:
    """Other processors see what was written before it before they see what is written after it."""
    _release()


@inner
def acquire() -> None:
    """What is read after it is read after what was read before it."""
    _acquire()


@kernel
def is_finite(x: Any) -> bool:
    """Whether a number is neither NaN nor infinite.

    `np.isfinite` asks whether x − x is 0, which reordered arithmetic folds to True for an x that is a sum.

    >>> [is_finite(x) for x in (1.0, np.inf, -np.inf, np.nan)]
    [True, False, False, False]
    """
    return bool(abs(x) <= 1.7976931348623157e308)


@kernel
def mix(bits: np.uint64) -> np.uint64:
    """Finaliser of splitmix64 (Steele et al. 2014): 64 bits in, 64 well-mixed bits out."""
    z = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def random_bits(key: np.uint64, counter: int) -> np.uint64:
    """Number `counter` of the random sequence `key`: counter-based, so that a replay draws the same."""
    return mix(key + np.uint64(0x9E3779B97F4A7C15) * (np.uint64(counter) + np.uint64(1)))


@kernel
def random_below(key: np.uint64, counter: int, n: int) -> int:
    """Uniform integer in [0, n), n < 2^31 (multiply-shift; its bias is below n / 2^32)."""
    return int(np.int64(((random_bits(key, counter) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32)))


@kernel
def random_normal(key: np.uint64, counter: int) -> float:
    """Standard normal number `counter` of the sequence `key` (Box and Muller 1958)."""
    scale = 1.0 / 9007199254740992.0
    u = (np.float64(random_bits(key, 2 * counter) >> np.uint64(11)) + 0.5) * scale
    v = np.float64(random_bits(key, 2 * counter + 1) >> np.uint64(11)) * scale
    return float(np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v))


@kernel
def hash_bytes(data: np.ndarray, start: int, end: int) -> np.uint64:
    """64-bit hash of `data[start:end]`: FNV-1a, then `mix`."""
    h = np.uint64(0xCBF29CE484222325)
    for k in range(start, end):
        h = (h ^ np.uint64(data[k])) * np.uint64(0x100000001B3)
    return mix(h)


def crc_tables(polynomial: int) -> np.ndarray:
    """Tables of a reflected CRC-32 for eight bytes at a time."""
    tables = np.zeros((8, 256), np.uint32)
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (polynomial if crc & 1 else 0)
        tables[0, byte] = crc
    for k in range(1, 8):
        tables[k] = (tables[k - 1] >> np.uint32(8)) ^ tables[0][tables[k - 1] & np.uint32(0xFF)]
    return tables


CRC_TABLES = crc_tables(0xEDB88320)  # IEEE 802.3, as zlib's


@inner
def crc_by_eight(data: np.ndarray, start: int, end: int, tables: np.ndarray) -> np.uint32:
    """CRC of `data[start:end]` by tables ("slicing by 8", Kounavis and Berry 2005)."""
    crc = np.uint32(0xFFFFFFFF)
    k = start
    while k + 8 <= end:
        a = crc ^ (
            np.uint32(data[k])
            | (np.uint32(data[k + 1]) << np.uint32(8))
            | (np.uint32(data[k + 2]) << np.uint32(16))
            | (np.uint32(data[k + 3]) << np.uint32(24))
        )
        crc = (
            tables[7, a & np.uint32(0xFF)]
            ^ tables[6, (a >> np.uint32(8)) & np.uint32(0xFF)]
            ^ tables[5, (a >> np.uint32(16)) & np.uint32(0xFF)]
            ^ tables[4, a >> np.uint32(24)]
            ^ tables[3, data[k + 4]]
            ^ tables[2, data[k + 5]]
            ^ tables[1, data[k + 6]]
            ^ tables[0, data[k + 7]]
        )
        k += 8
    while k < end:
        crc = tables[0, (crc ^ np.uint32(data[k])) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
        k += 1
    return crc ^ np.uint32(0xFFFFFFFF)


@kernel
def crc32(data: np.ndarray, start: int, end: int) -> np.uint32:
    """CRC-32 of `data[start:end]`, equal to `zlib.crc32`.

    >>> crc32(np.frombuffer(b"123456789", np.uint8), 0, 9) == 0xCBF43926
    True
    """
    return crc_by_eight(data, start, end, CRC_TABLES)
