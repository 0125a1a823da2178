"""A causal transformer over a user's last items: their vectors enter, a vector for each position leaves.

    input      X = E + P + T_gap                                  P learned, or sin and cos
    attention  A(X) = concat_h[ softmax(Q_h K_hᵀ / √(d/H) + mask) V_h ] W^O,  Q = X W^Q, K = X W^K, V = X W^V
    feed       F(X) = GELU(X W₁ + b₁) W₂ + b₂
    block      X ← X + A(LN(X));  X ← X + F(LN(X))                norm_first (Xiong et al. 2020)
               X ← LN(X + A(X));  X ← LN(X + F(X))                else (Vaswani et al. 2017, SASRec)

Symbols of Kang and McAuley 2018 (SASRec): E is Ê (eq. 1), A is SA(Ê) with its causal mask (eq. 2, 3), F
is FFN (eq. 4), dropout and LN as in section III-C. Names: position P, query W^Q, key W^K, value W^V,
mix W^O, up W₁ b₁, down W₂ b₂.

**Position 0 is the latest item**, position k the one k events before, so that a longer window, or room
that is left empty at its end, changes nothing. Causal then means: position k sees k, k + 1, … L − 1.
B sequences, L positions, D floats, H heads, C = D / H.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from streaming.learners.pooling import GAPS
from streaming.session.options import Options

MASKED = -1e9  # a score whose part in a softmax is 0; finite, so that a row of nothing else is finite, too
LOW_31 = 0x7FFF_FFFF  # of a version's seed, what random keys take
EPSILON = 1e-5  # of layer normalisation


class Layers(NamedTuple):
    """Weights of all layers, one above the other."""

    norm1_scale: jax.Array  # (N, D)
    norm1_shift: jax.Array  # (N, D)
    query: jax.Array  # (N, D, D)
    key: jax.Array  # (N, D, D)
    value: jax.Array  # (N, D, D)
    mix: jax.Array  # (N, D, D)
    norm2_scale: jax.Array  # (N, D)
    norm2_shift: jax.Array  # (N, D)
    up: jax.Array  # (N, D, F)
    up_shift: jax.Array  # (N, F)
    down: jax.Array  # (N, F, D)
    down_shift: jax.Array  # (N, D)


class Params(NamedTuple):
    """All weights of a transformer."""

    position: jax.Array  # (L, D); with sinusoidal positions of no effect
    gap: jax.Array  # (GAPS, D)
    edge_scale: jax.Array  # (D,) of the normalisation at the end (norm_first), or of the input
    edge_shift: jax.Array  # (D,)
    layers: Layers
    out: jax.Array  # (D, D) W_o of the correction; 0 at first: nothing is corrected
    warmth: jax.Array  # (D + 1,) u and c of the scale in the loss; 0 at first: a scale of 1


def initial(options: Options, seed: int) -> Params:
    """Weights before the first step, a function of options and seed."""
    n, d, f = options.layers, options.dimension, options.hidden
    keys = iter(jax.random.split(jax.random.key(seed & LOW_31), 7))

    def matrices(*shape: int) -> jax.Array:
        scale: float = shape[-2] ** -0.5
        return jax.random.normal(next(keys), shape) * scale

    zeros, ones = jnp.zeros((n, d)), jnp.ones((n, d))
    layers = Layers(
        ones, zeros, matrices(n, d, d), matrices(n, d, d), matrices(n, d, d), matrices(n, d, d),
        ones, zeros, matrices(n, d, f), jnp.zeros((n, f)), matrices(n, f, d), zeros,
    )  # fmt: skip
    position = 0.02 * jax.random.normal(next(keys), (options.length, d))
    edge = jnp.ones(d), jnp.zeros(d)
    return Params(position, jnp.zeros((GAPS, d)), *edge, layers, jnp.zeros((d, d)), jnp.zeros(d + 1))


def sinusoidal(length: int, dimension: int) -> jax.Array:
    """sin and cos of k / 10000^(2i/d) in the even and odd columns (Vaswani et al. 2017, section 3.5).

    Returns:
        (L, D)
    """
    rate = 10_000.0 ** (-jnp.arange(0, dimension, 2) / dimension)  # (D/2,)
    angle = jnp.arange(length)[:, None] * rate  # (L, D/2)
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(length, dimension)


def normalise(x: jax.Array) -> jax.Array:
    """Layer normalisation without weights (Ba et al. 2016): mean 0, variance 1 along the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + EPSILON)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Set a share of the floats to 0 and scale the others up; without a key, nothing."""
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bits(key, x.shape, jnp.uint16) >= jnp.uint16(rate * 65_536)
    return jnp.where(kept, x / (1.0 - rate), 0.0)


def feed(layer: Layers, x: jax.Array) -> jax.Array:
    """F, each position by itself; GELU in its tanh form (Hendrycks and Gimpel 2016)."""
    return jax.nn.gelu(x @ layer.up + layer.up_shift) @ layer.down + layer.down_shift  # (B, ·, D)


def attention(
    layer: Layers, x: jax.Array, mask: jax.Array, options: Options, key: jax.Array | None = None
) -> jax.Array:
    """A of all positions.

    Args:
        x: (B, L, D).
        mask: (B, L) whether a position holds an item.
        key: random key of the dropout; None for none.

    Returns:
        (B, L, D)
    """
    b, length, d = x.shape
    heads = (b, length, options.heads, d // options.heads)
    q = (x @ layer.query).reshape(heads)  # (B, L, H, C)
    k = (x @ layer.key).reshape(heads)  # (B, L, H, C)
    v = (x @ layer.value).reshape(heads)  # (B, L, H, C)
    scores = jnp.einsum("blhc,bmhc->bhlm", q, k) * heads[-1] ** -0.5  # (B, H, L, L)
    seen = jnp.triu(jnp.ones((length, length), bool)) & mask[:, None, None, :]  # (B, 1, L, L)
    parts = jax.nn.softmax(jnp.where(seen, scores, MASKED))  # (B, H, L, L)
    parts = dropout(parts, options.dropout, key)
    return jnp.einsum("bhlm,bmhc->blhc", parts, v).reshape(b, length, d) @ layer.mix  # (B, L, D)


def attention_of_latest(
    layer: Layers, x: jax.Array, mask: jax.Array, options: Options, key: jax.Array | None = None
) -> jax.Array:
    """A of position 0 alone, at a cost of L·D·H + D² rather than L·D².

    (x₀ W^Q_h)(X W^K_h)ᵀ = (x₀ W^Q_h W^K_hᵀ) Xᵀ, and Σ_m a_m (x_m W^V_h) = (Σ_m a_m x_m) W^V_h: neither keys
    nor values are made.

    Returns:
        (B, 1, D)
    """
    b, _, d = x.shape
    by_head = (d, options.heads, d // options.heads)
    q = (x[:, 0] @ layer.query).reshape(b, *by_head[1:])  # (B, H, C)
    q = jnp.einsum("bhc,dhc->bhd", q, layer.key.reshape(by_head))  # (B, H, D)
    scores = jnp.einsum("bhd,bmd->bhm", q, x) * by_head[-1] ** -0.5  # (B, H, L)
    parts = jax.nn.softmax(jnp.where(mask[:, None, :], scores, MASKED))  # (B, H, L)
    parts = dropout(parts, options.dropout, key)
    mean = jnp.einsum("bhm,bmd->bhd", parts, x)  # (B, H, D)
    v = jnp.einsum("bhd,dhc->bhc", mean, layer.value.reshape(by_head))  # (B, H, C)
    return v.reshape(b, 1, d) @ layer.mix  # (B, 1, D)


def block(
    layer: Layers, x: jax.Array, mask: jax.Array, options: Options, key: jax.Array | None, latest: bool
) -> jax.Array:
    """One layer; with `latest`, only what leaves at position 0.

    Returns:
        (B, L, D) or (B, 1, D)
    """
    keys = [None, None, None] if key is None else list(jax.random.split(key, 3))
    attend = attention_of_latest if latest else attention
    kept = x[:, :1] if latest else x  # (B, · , D)
    if options.norm_first:
        a = attend(layer, layer.norm1_scale * normalise(x) + layer.norm1_shift, mask, options, keys[0])
        x = kept + dropout(a, options.dropout, keys[1])
        f = feed(layer, layer.norm2_scale * normalise(x) + layer.norm2_shift)
        return x + dropout(f, options.dropout, keys[2])
    a = attend(layer, x, mask, options, keys[0])
    x = layer.norm1_scale * normalise(kept + dropout(a, options.dropout, keys[1])) + layer.norm1_shift
    f = dropout(feed(layer, x), options.dropout, keys[2])
    return layer.norm2_scale * normalise(x + f) + layer.norm2_shift


def encode(
    params: Params,
    x: jax.Array,
    mask: jax.Array,
    options: Options,
    *,
    gap: jax.Array | None = None,
    key: jax.Array | None = None,
    latest: bool = False,
) -> jax.Array:
    """The transformer.

    Args:
        x: (B, L, D) vectors of the last items, the latest first.
        mask: (B, L) whether a position holds an item.
        gap: (B, L) bucket of the time since the item was had; None leaves T_gap out.
        key: random key of the dropout; None where nothing is trained.
        latest: only what leaves at position 0 is wanted.

    Returns:
        (B, L, D), or (B, 1, D) with `latest`; what leaves where there is no item means nothing.
    """
    length = x.shape[1]
    learned = options.positions == "learned"
    x = x + (params.position[:length] if learned else sinusoidal(length, options.dimension))  # (B, L, D)
    if gap is not None:
        x = x + params.gap[gap]
    if not options.norm_first:
        x = params.edge_scale * normalise(x) + params.edge_shift
    keys = [None] * (options.layers + 1) if key is None else list(jax.random.split(key, options.layers + 1))
    x = dropout(x, options.dropout, keys[-1])
    for n in range(options.layers):
        layer = Layers(*(weights[n] for weights in params.layers))
        x = block(layer, x, mask, options, keys[n], latest and n == options.layers - 1)
    return params.edge_scale * normalise(x) + params.edge_shift if options.norm_first else x


def correction(
    params: Params,
    rows: jax.Array,
    mask: jax.Array,
    gap: jax.Array,
    options: Options,
    key: jax.Array | None = None,
) -> jax.Array:
    """δ = ε · z W_o, z what leaves at the latest item: q = h + δ ranks items, h the plain query.

    Items are read at one length, ε_in · LN(V_i), whatever theirs in the version is, and are not changed.

    Args:
        rows: (B, L, D) the version's vectors of the last items, the latest first.

    Returns:
        (B, D); 0 where no position holds an item.
    """
    return correction_of(params, read(params, rows, mask, gap, options, key), mask, options)


def read(
    params: Params,
    rows: jax.Array,
    mask: jax.Array,
    gap: jax.Array,
    options: Options,
    key: jax.Array | None = None,
) -> jax.Array:
    """z, what leaves at the latest item; arguments as in `correction`.

    Returns:
        (B, D)
    """
    x = options.input_scale * normalise(jax.lax.stop_gradient(rows))  # (B, L, D)
    z = encode(params, x, mask, options, gap=gap if options.gaps else None, key=key, latest=True)  # (B, 1, D)
    return z[:, 0]


def correction_of(params: Params, z: jax.Array, mask: jax.Array, options: Options) -> jax.Array:
    """δ = ε · z W_o, (B, D); 0 where no position holds an item."""
    delta = options.residual * (z @ params.out)  # (B, D)
    return jnp.where(mask.any(axis=1, keepdims=True), delta, 0.0)


def scale_of(params: Params, z: jax.Array, mask: jax.Array, options: Options) -> jax.Array:
    """e^(ε z·u + c), (B,): by how much a sequence's scores are stretched in the loss, and only there."""
    scale = jnp.exp(options.residual * (z @ params.warmth[:-1]) + params.warmth[-1])  # (B,)
    return jnp.where(mask.any(axis=1), scale, 1.0)
