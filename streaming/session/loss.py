"""Losses: queries and candidates enter, −ln softmax of the targets leaves.

    sampled  −ln [ e^{s_t} / (e^{s_t} + Σ_own e^{s_o} + Σ_n e^{s_n}) ],   s_j = q·V_j / τ + b_j

b_j holds what does not hang on q: the item's bias, its repeat term, and −ln(N p_j) for an item that is
drawn N times with probability p_j, the target included (Bengio and Senécal 2008; with τ this is InfoNCE,
van den Oord et al. 2018). "Own" are the user's last items: they are always compared, so no ln(N p).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from streaming.session.model import MASKED
from streaming.session.options import Options

Array = jax.Array | NDArray[np.float32]
Flags = jax.Array | NDArray[np.bool_]
Numbers = jax.Array | NDArray[np.int32]


class Batch(NamedTuple):
    """Sequences of one step; always of the same shapes, room that is left has weight 0."""

    rows: Array  # (B, L, D) vectors of the last items, the latest first
    mask: Flags  # (B, L) whether a position holds an item
    gap: Numbers  # (B, L) bucket of the time since it was had
    own: Flags  # (B, L) whether it is compared: each item once, and not the target
    own_base: Array  # (B, L) b of the last items
    user: Array  # (B, D) h, the plain query
    target: Array  # (B, D)
    target_base: Array  # (B,)
    negative: Array  # (M, D)
    negative_base: Array  # (M,)
    clear: Flags  # (B, M) whether a negative is neither the target nor an own item
    drawn: Numbers  # (M,) slots of the negatives
    weight: Array  # (B,)


def new_batch(options: Options) -> Batch:
    """Room for a step's sequences."""
    b, length, d, m = options.batch, options.length, options.dimension, options.negatives
    return Batch(
        rows=np.zeros((b, length, d), np.float32),
        mask=np.zeros((b, length), np.bool_),
        gap=np.zeros((b, length), np.int32),
        own=np.zeros((b, length), np.bool_),
        own_base=np.zeros((b, length), np.float32),
        user=np.zeros((b, d), np.float32),
        target=np.zeros((b, d), np.float32),
        target_base=np.zeros(b, np.float32),
        negative=np.zeros((m, d), np.float32),
        negative_base=np.zeros(m, np.float32),
        clear=np.zeros((b, m), np.bool_),
        drawn=np.zeros(m, np.int32),
        weight=np.zeros(b, np.float32),
    )


def sampled_softmax(query: jax.Array, batch: Batch, temperature: float) -> jax.Array:
    """The loss of each sequence.

    Args:
        query: (B, D) q.

    Returns:
        (B,)
    """
    target = jnp.sum(query * batch.target, axis=-1) / temperature + batch.target_base  # (B,)
    own = jnp.einsum("bd,bld->bl", query, jnp.asarray(batch.rows)) / temperature + batch.own_base  # (B, L)
    others = query @ jnp.asarray(batch.negative).T / temperature + batch.negative_base  # (B, M)
    scores = jnp.concatenate(
        [target[:, None], jnp.where(batch.own, own, MASKED), jnp.where(batch.clear, others, MASKED)], axis=1
    )  # (B, 1 + L + M)
    return jax.nn.logsumexp(scores, axis=1) - target


def weighted_mean(losses: jax.Array, weight: Array) -> jax.Array:
    """Mean of what counts; 0 where nothing does."""
    return jnp.sum(losses * weight) / jnp.maximum(jnp.sum(jnp.asarray(weight)), 1.0)
