"""Losses: queries and candidates enter, −ln softmax of the targets leaves.

    sampled  −ln [ e^{s_t} / (e^{s_t} + Σ_own e^{s_o} + Σ_n e^{s_n}) ],  s_j = a (q·V_j / τ + b_j) − ln(N p_j)

b_j holds what does not hang on q: the item's bias and its repeat term; N p_j is how often an item is drawn
in N draws with probability p_j, the target included (Bengio and Senécal 2008; with τ this is InfoNCE, van
den Oord et al. 2018). "Own" are the user's last items: they are always compared, so no ln(N p).

a is a scale of the sequence that training learns beside the correction. It changes no ranking and is never
served: it takes up that plain scores are too sure or not sure enough of themselves (Guo et al. 2017), on
which the correction would spend itself otherwise.

    residual  L_hard + λ L_all

L_all compares all negatives. Most of it is what users do that nobody could foresee, and lowering it
disturbs the head of the ranking, where all counts; so L_hard looks there: it compares only what the plain
query scores at least as high as its highest negatives, and only targets of which that is true. That is the
likelihood of the target given that it is one of those: a re-ranking.
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
    target_share: Array  # (B,) −ln(N p), 0 for one of the last items
    negative: Array  # (M, D)
    negative_base: Array  # (M,)
    negative_share: Array  # (M,)
    clear: Flags  # (B, M) whether a negative is neither the target nor an own item
    drawn: Numbers  # (M,) serials of the negatives
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
        target_share=np.zeros(b, np.float32),
        negative=np.zeros((m, d), np.float32),
        negative_base=np.zeros(m, np.float32),
        negative_share=np.zeros(m, np.float32),
        clear=np.zeros((b, m), np.bool_),
        drawn=np.zeros(m, np.int32),
        weight=np.zeros(b, np.float32),
    )


class Scores(NamedTuple):
    """q·V_j / τ + b_j of what a sequence is compared with."""

    target: jax.Array  # (B,)
    own: jax.Array  # (B, L)
    others: jax.Array  # (B, M)


def scores_of(query: jax.Array, batch: Batch, temperature: float) -> Scores:
    """Scores under q, (B, D)."""
    return Scores(
        jnp.sum(query * batch.target, axis=-1) / temperature + batch.target_base,
        jnp.einsum("bd,bld->bl", query, jnp.asarray(batch.rows)) / temperature + batch.own_base,
        query @ jnp.asarray(batch.negative).T / temperature + batch.negative_base,
    )


def sampled_softmax(scores: Scores, batch: Batch, clear: Flags, scale: jax.Array) -> jax.Array:
    """The loss of each sequence.

    Args:
        clear: (B, M) negatives that are compared.
        scale: (B,) a.

    Returns:
        (B,)
    """
    target = scale * scores.target + batch.target_share  # (B,)
    own = jnp.where(batch.own, scale[:, None] * scores.own, MASKED)  # (B, L)
    others = scale[:, None] * scores.others + batch.negative_share  # (B, M)
    candidates = [target[:, None], own, jnp.where(clear, others, MASKED)]
    return jax.nn.logsumexp(jnp.concatenate(candidates, axis=1), axis=1) - target


def hardest(plain: Scores, clear: Flags, share: float) -> tuple[jax.Array, jax.Array]:
    """The negatives of highest plain score, and which targets are among or above them.

    Args:
        clear: (B, M) negatives that there are.
        share: of the M negatives.

    Returns:
        (B, M) and (B,)
    """
    others = jnp.where(clear, plain.others, MASKED)  # (B, M)
    number = max(1, round(share * others.shape[1]))
    edge = jax.lax.top_k(others, number)[0][:, -1]  # (B,) lowest score of the hardest
    return jnp.asarray(clear) & (others >= edge[:, None]), plain.target >= edge


def residual_loss(query: jax.Array, batch: Batch, scale: jax.Array, options: Options) -> jax.Array:
    """L_hard + λ L_all of each sequence, (B,)."""
    scores = scores_of(query, batch, options.temperature)
    plain = scores_of(jnp.asarray(batch.user), batch, options.temperature)
    hard, among = hardest(plain, batch.clear, options.hard)
    first = jnp.where(among, sampled_softmax(scores, batch, hard, scale), 0.0)
    return first + options.breadth * sampled_softmax(scores, batch, batch.clear, scale)


def weighted_mean(losses: jax.Array, weight: Array) -> jax.Array:
    """Mean of what counts; 0 where nothing does."""
    return jnp.sum(losses * weight) / jnp.maximum(jnp.sum(jnp.asarray(weight)), 1.0)
