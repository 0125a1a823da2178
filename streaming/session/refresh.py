"""Refresh: the last items of many users enter, their sequence embeddings leave, a fixed number at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from streaming.session.model import Params, correction
from streaming.session.options import Options


class Refresh:
    """Batch forward pass of fixed shape: room that is left is padded, so that nothing is compiled again.

    Attributes:
        users: sequences of one pass.
        compilations: how often the pass was compiled.
    """

    def __init__(self, options: Options, users: int = 256) -> None:
        self.options, self.users, self.compilations = options, users, 0

        def forward(params: Params, rows: jax.Array, mask: jax.Array, gap: jax.Array) -> jax.Array:
            self.compilations += 1  # this body runs only while it is traced
            return correction(params, rows, mask, gap, options)

        self._forward = jax.jit(forward)

    def __call__(
        self,
        params: Params,
        rows: NDArray[np.float32],
        mask: NDArray[np.bool_],
        gap: NDArray[np.int32],
        user: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """q = h + δ of n users, in the inner-product space of the version's items.

        Args:
            rows: (n, L, D) vectors of their last items, the latest first.
            mask: (n, L) whether a position holds an item; an item whose row is gone is masked.
            gap: (n, L) bucket of the time since it was had.
            user: (n, D) h, their plain queries.

        Returns:
            (n, D)
        """
        out = np.array(user, np.float32)
        for first in range(0, len(user), self.users):
            part = slice(first, min(first + self.users, len(user)))
            taken = part.stop - first
            delta = self._forward(
                params,
                *(jnp.asarray(_filled(array[part], self.users)) for array in (rows, mask, gap)),
            )  # (users, D)
            out[part] += np.asarray(delta)[:taken]
        return out


def _filled(array: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    """The array with zeros behind, so that its first axis has this size."""
    if len(array) == size:
        return array
    return np.concatenate([array, np.zeros((size - len(array), *array.shape[1:]), array.dtype)])
