"""The forward pass for one user in numba: slots of the last items enter, the correction δ leaves.

Equal to `model.correction`, which says what is computed, to 1e-5. In the last layer only position 0 is
followed, and as there neither keys nor values are made for it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import inner, kernel, reduction
from streaming.learners.negatives import exponential
from streaming.learners.pooling import GAPS
from streaming.learners.reductions import dot_rows
from streaming.session.model import EPSILON, Params, sinusoidal
from streaming.session.options import Options

_EPSILON = np.float32(EPSILON)


class Weights(NamedTuple):
    """Weights in the form that the kernel reads; in layer n, rows n·D … n·D + D − 1 of a matrix."""

    position: NDArray[np.float32]  # (L, D)
    gap: NDArray[np.float32]  # (GAPS, D)
    edge: NDArray[np.float32]  # (2, D) scale, shift
    norm1: NDArray[np.float32]  # (2N, D) scale, shift of each layer
    norm2: NDArray[np.float32]  # (2N, D)
    query: NDArray[np.float32]  # (N·D, D)
    key: NDArray[np.float32]  # (N·D, D)
    value: NDArray[np.float32]  # (N·D, D)
    mix: NDArray[np.float32]  # (N·D, D)
    up: NDArray[np.float32]  # (N·D, F)
    up_shift: NDArray[np.float32]  # (N, F)
    down: NDArray[np.float32]  # (N·F, D)
    down_shift: NDArray[np.float32]  # (N, D)
    out: NDArray[np.float32]  # (D, D) ε W_o
    layers: int
    heads: int
    norm_first: bool
    input_scale: float


class Workspace(NamedTuple):
    """What one pass needs and the next one overwrites."""

    x: NDArray[np.float32]  # (L, D) what runs through the layers
    read: NDArray[np.float32]  # (L, D) what attention reads
    attended: NDArray[np.float32]  # (L, D)
    keys: NDArray[np.float32]  # (L, D)
    values: NDArray[np.float32]  # (L, D)
    one: NDArray[np.float32]  # (6, D) vectors of one position
    hidden: NDArray[np.float32]  # (1, F)
    parts: NDArray[np.float32]  # (L,) attention of one head


def weights_of(params: Params, options: Options) -> Weights:
    """Weights as the kernel reads them."""
    n, d, f = options.layers, options.dimension, options.hidden
    layers = params.layers

    def array(values: object, *shape: int) -> NDArray[np.float32]:
        return np.array(values, np.float32).reshape(shape)

    learned = options.positions == "learned"
    return Weights(
        position=array(params.position if learned else sinusoidal(options.length, d), options.length, d),
        gap=array(params.gap if options.gaps else np.zeros((GAPS, d)), GAPS, d),
        edge=np.stack([array(params.edge_scale, d), array(params.edge_shift, d)]),
        norm1=np.stack([layers.norm1_scale, layers.norm1_shift], axis=1).reshape(2 * n, d),
        norm2=np.stack([layers.norm2_scale, layers.norm2_shift], axis=1).reshape(2 * n, d),
        query=array(layers.query, n * d, d),
        key=array(layers.key, n * d, d),
        value=array(layers.value, n * d, d),
        mix=array(layers.mix, n * d, d),
        up=array(layers.up, n * d, f),
        up_shift=array(layers.up_shift, n, f),
        down=array(layers.down, n * f, d),
        down_shift=array(layers.down_shift, n, d),
        out=array(options.residual * params.out, d, d),
        layers=n,
        heads=options.heads,
        norm_first=options.norm_first,
        input_scale=options.input_scale,
    )


def new_workspace(options: Options) -> Workspace:
    """Room for one pass."""
    length, d = options.length, options.dimension
    return Workspace(
        x=np.zeros((length, d), np.float32),
        read=np.zeros((length, d), np.float32),
        attended=np.zeros((length, d), np.float32),
        keys=np.zeros((length, d), np.float32),
        values=np.zeros((length, d), np.float32),
        one=np.zeros((6, d), np.float32),
        hidden=np.zeros((1, options.hidden), np.float32),
        parts=np.zeros(length, np.float32),
    )


@inner
def times(
    a: NDArray[np.float32], i: int, m: NDArray[np.float32], first: int, out: NDArray[np.float32], j: int
) -> None:
    """out_j += a_i M, M the rows of `m` from `first` on."""
    for r in range(a.shape[1]):
        factor = a[i, r]
        for c in range(m.shape[1]):
            out[j, c] += factor * m[first + r, c]


@reduction
def dot_between(
    a: NDArray[np.float32], i: int, b: NDArray[np.float32], j: int, low: int, high: int
) -> np.float32:
    """Inner product of the floats from `low` to below `high` of two rows."""
    total = np.float32(0.0)
    for k in range(low, high):
        total += a[i, k] * b[j, k]
    return total


@reduction
def mean_of(a: NDArray[np.float32], i: int, d: int) -> np.float32:
    """Mean of the first d floats of a row."""
    total = np.float32(0.0)
    for k in range(d):
        total += a[i, k]
    return total / np.float32(d)


@inner
def copy_row(a: NDArray[np.float32], i: int, out: NDArray[np.float32], j: int) -> None:
    """out_j = a_i."""
    for k in range(out.shape[1]):
        out[j, k] = a[i, k]


@inner
def normalise(
    a: NDArray[np.float32],
    i: int,
    factor: np.float32,
    norm: NDArray[np.float32],
    n: int,
    out: NDArray[np.float32],
    j: int,
) -> None:
    """out_j = factor · LN(a_i) · scale + shift, where `norm` has rows 2n (scale) and 2n + 1 (shift)."""
    d = out.shape[1]
    mean = mean_of(a, i, d)
    for k in range(d):
        out[j, k] = a[i, k] - mean
    inverse = factor / np.sqrt(dot_rows(out, j, out, j, d) / np.float32(d) + _EPSILON)
    for k in range(d):
        out[j, k] = out[j, k] * inverse * norm[2 * n, k] + norm[2 * n + 1, k]


@inner
def soften(parts: NDArray[np.float32], slots: NDArray[np.int32], first: int) -> None:
    """Softmax of the scores from position `first` on, 0 where there is no item."""
    highest = np.float32(-np.inf)
    for m in range(first, slots.shape[0]):
        if slots[m] >= 0:
            highest = max(highest, parts[m])
    mass = np.float32(0.0)
    for m in range(first, slots.shape[0]):
        parts[m] = exponential(parts[m] - highest) if slots[m] >= 0 else np.float32(0.0)
        mass += parts[m]
    for m in range(first, slots.shape[0]):
        parts[m] /= mass


@inner
def read_items(
    w: Weights, rows: NDArray[np.float32], slots: NDArray[np.int32], gaps: NDArray[np.uint8], space: Workspace
) -> bool:
    """X = E + P + T_gap; False where there is no item at all."""
    x, d = space.x, w.position.shape[1]
    found = False
    for k in range(d):
        space.one[4, k], space.one[5, k] = 1.0, 0.0
    for m in range(slots.shape[0]):
        if slots[m] >= 0:
            found = True
            normalise(rows, slots[m], np.float32(w.input_scale), space.one, 2, x, m)
        else:
            x[m] = 0.0  # nobody sees it, but what leaves at position 0 begins with its own
        for k in range(d):
            x[m, k] += w.position[m, k] + w.gap[gaps[m], k]
        if not w.norm_first:
            normalise(x, m, np.float32(1.0), w.edge, 0, x, m)
    return found


@inner
def attend_latest(w: Weights, n: int, slots: NDArray[np.int32], space: Workspace) -> None:
    """attended₀ = A(read)₀, as `model.attention_of_latest`."""
    read, one, parts = space.read, space.one, space.parts
    d = read.shape[1]
    size, base = d // w.heads, n * d
    scale = np.float32(1.0 / np.sqrt(size))
    one[0] = 0.0
    times(read, 0, w.query, base, one, 0)
    one[3] = 0.0
    for head in range(w.heads):
        low, high = head * size, (head + 1) * size
        one[2] = 0.0
        for r in range(d):
            one[1, r] = dot_between(one, 0, w.key, base + r, low, high)
        for m in range(slots.shape[0]):
            parts[m] = dot_rows(one, 1, read, m, d) * scale
        soften(parts, slots, 0)
        for m in range(slots.shape[0]):
            for k in range(d):
                one[2, k] += parts[m] * read[m, k]
        for r in range(d):
            for c in range(low, high):
                one[3, c] += one[2, r] * w.value[base + r, c]
    space.attended[0] = 0.0
    times(one, 3, w.mix, base, space.attended, 0)


@inner
def attend_all(w: Weights, n: int, slots: NDArray[np.int32], space: Workspace) -> None:
    """attended = A(read) at all positions."""
    read, one, parts = space.read, space.one, space.parts
    length, d = read.shape
    size, base = d // w.heads, n * d
    scale = np.float32(1.0 / np.sqrt(size))
    for m in range(length):
        space.keys[m] = 0.0
        space.values[m] = 0.0
        times(read, m, w.key, base, space.keys, m)
        times(read, m, w.value, base, space.values, m)
    for at in range(length):
        space.attended[at] = 0.0
        if slots[at] < 0 and at > 0:
            continue
        one[0] = 0.0
        one[1] = 0.0
        times(read, at, w.query, base, one, 0)
        for head in range(w.heads):
            low, high = head * size, (head + 1) * size
            for m in range(at, length):
                parts[m] = dot_between(one, 0, space.keys, m, low, high) * scale
            soften(parts, slots, at)
            for m in range(at, length):
                for c in range(low, high):
                    one[1, c] += parts[m] * space.values[m, c]
        times(one, 1, w.mix, base, space.attended, at)


@inner
def feed(w: Weights, n: int, source: NDArray[np.float32], i: int, space: Workspace, j: int) -> None:
    """x_j += F(source_i)."""
    hidden, f = space.hidden, w.up_shift.shape[1]
    d = source.shape[1]
    for c in range(f):
        hidden[0, c] = w.up_shift[n, c]
    times(source, i, w.up, n * d, hidden, 0)
    for c in range(f):
        u = hidden[0, c]
        # ½ u (1 + tanh v) = u / (1 + e^(−2v)), by e^(−|2v|), which cannot overflow
        v = np.float32(1.5957691) * (u + np.float32(0.044715) * u * u * u)
        e = exponential(-abs(v))
        hidden[0, c] = u * (np.float32(1.0) if v > 0.0 else e) / (np.float32(1.0) + e)
    for k in range(d):
        space.x[j, k] += w.down_shift[n, k]
    times(hidden, 0, w.down, n * f, space.x, j)


@inner
def through_layer(w: Weights, n: int, slots: NDArray[np.int32], space: Workspace) -> None:
    """X through one block; of the last one, position 0 alone."""
    x, read, one = space.x, space.read, space.one
    last = n == w.layers - 1
    for m in range(slots.shape[0]):
        if w.norm_first:
            normalise(x, m, np.float32(1.0), w.norm1, n, read, m)
        else:
            copy_row(x, m, read, m)
    if last:
        attend_latest(w, n, slots, space)
    else:
        attend_all(w, n, slots, space)
    for m in range(1 if last else slots.shape[0]):
        if slots[m] < 0 and m > 0:
            continue
        for k in range(x.shape[1]):
            x[m, k] += space.attended[m, k]
        if w.norm_first:
            normalise(x, m, np.float32(1.0), w.norm2, n, one, 0)
            feed(w, n, one, 0, space, m)
        else:
            normalise(x, m, np.float32(1.0), w.norm1, n, x, m)
            copy_row(x, m, one, 0)
            feed(w, n, one, 0, space, m)
            normalise(x, m, np.float32(1.0), w.norm2, n, x, m)


@kernel
def forward(
    w: Weights,
    rows: NDArray[np.float32],
    slots: NDArray[np.int32],
    gaps: NDArray[np.uint8],
    space: Workspace,
    out: NDArray[np.float32],
) -> None:
    """out = δ of one user.

    Args:
        rows: (items, ≥ D) the version's item rows, a vector in the first D columns.
        slots: (L,) of the last items, the latest first; −1 where there is none, or its row is gone.
        gaps: (L,) bucket of the time since each was had.
        out: (D,)
    """
    out[:] = 0.0
    if not read_items(w, rows, slots, gaps, space):
        return
    for n in range(w.layers):
        through_layer(w, n, slots, space)
    if w.norm_first:
        normalise(space.x, 0, np.float32(1.0), w.edge, 0, space.one, 0)
    else:
        copy_row(space.x, 0, space.one, 0)
    for r in range(out.shape[0]):
        factor = space.one[0, r]
        for k in range(out.shape[0]):
            out[k] += factor * w.out[r, k]
