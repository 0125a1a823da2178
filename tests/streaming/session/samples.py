"""Small transformers and batches for the tests of the session package."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from streaming.session.loss import Batch, new_batch
from streaming.session.model import Params, correction, encode, initial
from streaming.session.options import Options

SMALL = Options(
    dimension=8, length=5, layers=1, heads=2, hidden=12, dropout=0.0, residual=0.5, negatives=6, batch=4,
    replayed=2, remembered=16, every=8, temperature=0.7,
)  # fmt: skip
KINDS = (
    SMALL,
    SMALL._replace(layers=2, heads=1, positions="sinusoidal", gaps=False),
    SMALL._replace(layers=2, norm_first=False),
)


# JAX computes later, perhaps from the very arrays that it was given: tests that change these wait first.


def encoded(params: Params, x: Any, mask: Any, gap: Any, options: Options) -> NDArray[np.float32]:
    """`encode` in one compiled program: operation by operation it takes far longer to start."""
    return np.array(_encoded(params, x, mask, gap, options))


def corrected(params: Params, rows: Any, mask: Any, gap: Any, options: Options) -> NDArray[np.float32]:
    """`correction`, likewise."""
    return np.array(_corrected(params, rows, mask, gap, options))


@partial(jax.jit, static_argnames=("options",))
def _encoded(params: Params, x: Any, mask: Any, gap: Any, options: Options) -> Any:
    return encode(params, x, mask, options, gap=gap if options.gaps else None)


@partial(jax.jit, static_argnames=("options",))
def _corrected(params: Params, rows: Any, mask: Any, gap: Any, options: Options) -> Any:
    return correction(params, rows, mask, gap, options)


def weights(options: Options, seed: int = 1) -> Params:
    """Weights in which nothing is 0 or 1 any more."""
    random = np.random.default_rng(seed)
    moved = jax.tree.map(
        lambda a: (np.asarray(a) + 0.3 * random.normal(size=a.shape)).astype(np.float32),
        initial(options, seed),
    )
    assert isinstance(moved, Params)
    return moved


def batch_of(options: Options, seed: int = 1) -> Batch:
    """A batch with holes in its sequences, the last one empty; a third one that does not count."""
    random = np.random.default_rng(seed)
    batch = new_batch(options)
    drawn = (
        batch.rows, batch.own_base, batch.user, batch.target, batch.target_base, batch.negative,
        batch.target_share, batch.negative_share,
    )  # fmt: skip
    for array in drawn:
        array[...] = random.normal(size=array.shape)
    batch.mask[...] = random.random(batch.mask.shape) < 0.7
    batch.mask[:3, 0] = True
    batch.mask[0] = True
    batch.mask[-1] = False
    batch.rows[~batch.mask] = 0.0
    batch.own[...] = batch.mask & (random.random(batch.mask.shape) < 0.7)
    batch.gap[...] = random.integers(0, 16, batch.gap.shape)
    batch.negative_base[...] = random.normal(size=batch.negative_base.shape)
    batch.clear[...] = random.random(batch.clear.shape) < 0.8
    batch.weight[...] = 1.0
    batch.weight[2] = 0.0
    return batch
