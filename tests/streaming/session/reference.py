"""The transformer and its loss written out with loops over sequences, heads and positions, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streaming.session.loss import Batch
from streaming.session.options import Options

Array = NDArray[np.float64]


def as_float64(tree: Any) -> Any:
    """A tree of named tuples with float64 arrays."""
    if hasattr(tree, "_fields"):
        return type(tree)(*(as_float64(part) for part in tree))
    return np.array(tree, np.float64)


def layer_norm(x: Array) -> Array:
    return (x - x.mean()) / math.sqrt(x.var() + 1e-5)


def gelu(x: float) -> float:
    return 0.5 * x * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def position_of(k: int, d: int) -> Array:
    out = np.zeros(d)
    for i in range(d // 2):
        angle = k / 10_000 ** (2 * i / d)
        out[2 * i], out[2 * i + 1] = math.sin(angle), math.cos(angle)
    return out


def attend(layers: Any, n: int, x: Array, mask: NDArray[np.bool_], heads: int) -> Array:
    length, d = x.shape
    c = d // heads
    out = np.zeros_like(x)
    for at in range(length):
        joined = np.zeros(d)
        for h in range(heads):
            part = slice(h * c, (h + 1) * c)
            q = (x[at] @ layers.query[n])[part]
            weights = {
                m: math.exp(q @ (x[m] @ layers.key[n])[part] / math.sqrt(c))
                for m in range(at, length)
                if mask[m]
            }
            for m, weight in weights.items():
                joined[part] += weight / sum(weights.values()) * (x[m] @ layers.value[n])[part]
        out[at] = joined @ layers.mix[n]
    return out


def feed(layers: Any, n: int, x: Array) -> Array:
    hidden = np.array([gelu(u) for u in x @ layers.up[n] + layers.up_shift[n]])
    return hidden @ layers.down[n] + layers.down_shift[n]


def encode(params: Any, x: Array, mask: NDArray[np.bool_], options: Options, gap: Any = None) -> Array:
    """One sequence (L, D)."""
    length, d = x.shape
    x = x.copy()
    for k in range(length):
        x[k] += params.position[k] if options.positions == "learned" else position_of(k, d)
        if gap is not None:
            x[k] += params.gap[gap[k]]
        if not options.norm_first:
            x[k] = params.edge_scale * layer_norm(x[k]) + params.edge_shift
    layers = params.layers
    for n in range(options.layers):
        norm1 = lambda v, n=n: layers.norm1_scale[n] * layer_norm(v) + layers.norm1_shift[n]  # noqa: E731
        norm2 = lambda v, n=n: layers.norm2_scale[n] * layer_norm(v) + layers.norm2_shift[n]  # noqa: E731
        if options.norm_first:
            x = x + attend(layers, n, np.array([norm1(v) for v in x]), mask, options.heads)
            x = np.array([v + feed(layers, n, norm2(v)) for v in x])
        else:
            a = attend(layers, n, x, mask, options.heads)
            x = np.array([norm1(v + a[k]) for k, v in enumerate(x)])
            x = np.array([norm2(v + feed(layers, n, v)) for v in x])
    if options.norm_first:
        x = np.array([params.edge_scale * layer_norm(v) + params.edge_shift for v in x])
    return x


def read(params: Any, rows: Array, mask: NDArray[np.bool_], gap: Any, options: Options) -> Array:
    """z of one user (D,)."""
    x = np.array([options.input_scale * layer_norm(v) for v in rows])
    z: Array = encode(params, x, mask, options, gap if options.gaps else None)[0]
    return z


def correction(params: Any, rows: Array, mask: NDArray[np.bool_], gap: Any, options: Options) -> Array:
    """One user (D,)."""
    if not mask.any():
        return np.zeros(rows.shape[1])
    return options.residual * (read(params, rows, mask, gap, options) @ params.out)


def negative_log(target: float, others: list[float]) -> float:
    return math.log(math.exp(target) + sum(math.exp(s) for s in others)) - target


def loss(params: Any, batch: Batch, options: Options) -> float:
    """Mean of the losses of the hardest negatives and of all of them."""
    total = 0.0
    for i, weight in enumerate(batch.weight):
        seen = batch.rows[i].astype(np.float64), batch.mask[i], batch.gap[i], options
        h = batch.user[i].astype(np.float64)
        q = h + correction(params, *seen)
        a = 1.0
        if batch.mask[i].any():
            a = math.exp(options.residual * (read(params, *seen) @ params.warmth[:-1]) + params.warmth[-1])
        score = lambda v, base, of: float(of @ v / options.temperature + base)  # noqa: E731
        scaled = lambda v, base, q=q, a=a, score=score: a * score(v, base, q)  # noqa: E731
        target = scaled(batch.target[i], batch.target_base[i]) + float(batch.target_share[i])
        own = [scaled(batch.rows[i, m], batch.own_base[i, m]) for m in np.flatnonzero(batch.own[i])]
        clear = np.flatnonzero(batch.clear[i]).tolist()
        plain = [score(batch.negative[n], batch.negative_base[n], h) for n in clear]
        others = [
            scaled(batch.negative[n], batch.negative_base[n]) + float(batch.negative_share[n]) for n in clear
        ]
        number = max(1, round(options.hard * len(batch.negative)))
        edge = sorted(plain, reverse=True)[number - 1] if len(plain) >= number else -math.inf
        part = options.breadth * negative_log(target, own + others)
        if score(batch.target[i], batch.target_base[i], h) >= edge:
            hard = [s for s, before in zip(others, plain, strict=True) if before >= edge]
            part += negative_log(target, own + hard)
        total += float(weight) * part
    return total / float(batch.weight.sum())
