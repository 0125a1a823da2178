"""A learner's dense parameters as a store keeps them: each array whole, under its name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from state.ledger import sealed, unsealed
from state.store import Store
from streaming.errors import CorruptRowError


def parameter_key(name: str) -> bytes:
    """The key of an array."""
    return b"p" + name.encode()


def parameter_puts(params: Any) -> Iterator[tuple[bytes, bytes]]:
    """What a commit must write; `params` is a NamedTuple of arrays."""
    for name, array in zip(params._fields, params, strict=True):
        yield parameter_key(name), sealed(array.tobytes())


def read_parameters(store: Store, params: Any) -> None:
    """Read the arrays of `params` back, in their place.

    Raises:
        CorruptRowError: one is missing, or its checksum does not fit.
    """
    for name, array in zip(params._fields, params, strict=True):
        key = parameter_key(name)
        value = store.get_many([key])[0]
        if value is None:
            raise CorruptRowError(f"{key!r}: the parameters are missing. Go back to a snapshot.")
        array[...] = np.frombuffer(unsealed(key, value), array.dtype).reshape(array.shape)
