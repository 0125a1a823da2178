"""SASRec offline: sequences of users enter, a trained item table and transformer leave (protocol P3).

    loss   −ln softmax over the candidates of x_{t+1} · s_j,   s_j = F_t·V_j / τ,  at every position t
    data   last item of a user for the test, last but one for validation, the rest for training

Model of Kang and McAuley 2018 with tied item vectors (their eq. 6), but the loss is a softmax over many
shared negatives with their logQ correction (or over all items), which is what lifts SASRec above BERT4Rec
(Klenitskiy and Vasilev 2023). Most users are short: they run in batches of their own that are less wide,
which changes no figure, since position 0 is the latest item; and positions that hold nothing are packed
away before items are scored. Shapes are two, so the step is compiled twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from numpy.typing import NDArray

from streaming.session.model import MASKED, Params, encode, initial
from streaming.session.options import Options
from streaming.session.step import Compiled, State


class Offline(NamedTuple):
    """Options of a training over stored sequences; those of the transformer stand in `Options`.

    packed: positions of a batch that are trained; a batch ends where they are full.
    short: items of a short user.
    negatives: shared by the positions of a batch; 0: all items.
    epochs: passes over the data.
    check: epochs between two validations.
    patience: validations without a better one before training ends.
    weight_decay: of AdamW.
    """

    packed: int = 1024
    short: int = 8
    negatives: int = 2048
    epochs: int = 100
    check: int = 2
    patience: int = 5
    weight_decay: float = 0.0


class Sasrec(NamedTuple):
    """Weights."""

    items: jax.Array  # (M, D)
    encoder: Params


class Packed(NamedTuple):
    """Users of one batch; room that is left points nowhere."""

    items: NDArray[np.int32]  # (B, L) the latest first, −1 for none
    position: NDArray[np.int32]  # (T,) flat places b·L + k of trained positions
    target: NDArray[np.int32]  # (T,) the item after each
    weight: NDArray[np.float32]  # (T,)
    negative: NDArray[np.int32]  # (N,) shared negatives, uniform


def latest_first(sequence: NDArray[np.int32], length: int) -> NDArray[np.int32]:
    """The last items of a sequence, the latest first, −1 behind them.

    >>> latest_first(np.array([3, 4, 5], np.int32), 4)
    array([ 5,  4,  3, -1], dtype=int32)
    """
    out = np.full(length, -1, np.int32)
    part = sequence[-length:][::-1]
    out[: len(part)] = part
    return out


def batches(
    sequences: list[NDArray[np.int32]],
    options: Options,
    offline: Offline,
    items: int,
    random: np.random.Generator,
) -> Iterator[Packed]:
    """One epoch in a random order of users; each of at least two items is met once."""
    widths = sorted({min(offline.short, options.length), options.length})
    open_batches = {width: (_empty(width, offline), 0, 0) for width in widths}
    for u in random.permutation(len(sequences)).tolist():
        sequence = sequences[u][-options.length - 1 :]
        n = len(sequence) - 1
        if n < 1:
            continue
        width = next(w for w in widths if n <= w)
        batch, row, taken = open_batches[width]
        if row == len(batch.items) or taken + n > offline.packed:
            yield _with_negatives(batch, items, random)
            batch, row, taken = _empty(width, offline), 0, 0
        batch.items[row] = latest_first(sequence[:-1], width)
        batch.position[taken : taken + n] = row * width + np.arange(n)
        batch.target[taken : taken + n] = sequence[1:][::-1]
        batch.weight[taken : taken + n] = 1.0
        open_batches[width] = batch, row + 1, taken + n
    for batch, _, taken in open_batches.values():
        if taken:
            yield _with_negatives(batch, items, random)


def _empty(width: int, offline: Offline) -> Packed:
    return Packed(
        items=np.full((max(1, 2 * offline.packed // width), width), -1, np.int32),
        position=np.zeros(offline.packed, np.int32),
        target=np.zeros(offline.packed, np.int32),
        weight=np.zeros(offline.packed, np.float32),
        negative=np.zeros(offline.negatives, np.int32),
    )


def _with_negatives(batch: Packed, items: int, random: np.random.Generator) -> Packed:
    batch.negative[:] = random.integers(0, items, len(batch.negative))
    return batch


def read(params: Sasrec, items: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Vectors (B, L, D) and mask (B, L) of items (B, L), −1 for none."""
    mask = items >= 0
    return jnp.where(mask[..., None], params.items[jnp.maximum(items, 0)], 0.0), mask


def loss_of(
    options: Options, offline: Offline, items: int
) -> Callable[[Sasrec, Packed, jax.Array], jax.Array]:
    """Mean loss over the packed positions."""

    def loss(params: Sasrec, batch: Packed, key: jax.Array) -> jax.Array:
        x, mask = read(params, jnp.asarray(batch.items))  # (B, L, D), (B, L)
        z = encode(params.encoder, x, mask, options, key=key)  # (B, L, D)
        f = z.reshape(-1, options.dimension)[batch.position] / options.temperature  # (T, D)
        target = jnp.asarray(batch.target)
        hit = jnp.sum(f * params.items[target], axis=-1)  # (T,)
        if offline.negatives:
            expected = offline.negatives / items  # of each item, among the uniform draws
            others = f @ params.items[batch.negative].T - np.log(expected)  # (T, N)
            others = jnp.where(target[:, None] == batch.negative[None], MASKED, others)
            losses = jnp.logaddexp(jax.nn.logsumexp(others, axis=1), hit) - hit  # (T,)
        else:
            losses = jax.nn.logsumexp(f @ params.items.T, axis=1) - hit  # (T,)
        return jnp.sum(losses * batch.weight) / jnp.maximum(jnp.sum(jnp.asarray(batch.weight)), 1.0)

    return loss


def begin(
    items: int, options: Options, offline: Offline, seed: int
) -> tuple[Compiled[Sasrec, Packed], State[Sasrec]]:
    """The compiled step and the state that it begins with."""
    optimiser = optax.chain(
        optax.clip_by_global_norm(options.clip),
        optax.adamw(
            options.learning_rate,
            b1=options.momentum,
            b2=options.smoothing,
            weight_decay=offline.weight_decay,
        ),
    )
    table = 0.02 * jax.random.normal(jax.random.key(seed + 1), (items, options.dimension))
    compiled = Compiled(loss_of(options, offline, items), optimiser)
    return compiled, compiled.begin(Sasrec(table, initial(options, seed)), seed)


class Ranker:
    """HR@10 and NDCG@10 of targets among all items outside each user's history."""

    def __init__(self, options: Options, width: int, users: int = 512) -> None:
        """`width`: items of the longest history; `users` are ranked at a time."""
        self.options, self.width, self.users = options, width, users

        def ranks(params: Sasrec, items: jax.Array, target: jax.Array, had: jax.Array) -> jax.Array:
            x, mask = read(params, items)
            z = encode(params.encoder, x, mask, options, latest=True)[:, 0]  # (B, D)
            scores = z @ params.items.T  # (B, M)
            mine = jnp.take_along_axis(scores, target[:, None], axis=1)  # (B, 1)
            rows = jnp.arange(len(items))[:, None]
            # What the user had is out of the ranking; room in `had` holds M, which is no item.
            scores = scores.at[rows, had].set(-jnp.inf, mode="drop")
            greater = jnp.sum(scores > mine, axis=1)
            equal = jnp.sum(scores == mine, axis=1)  # the target among them, unless the user had it
            return greater + 0.5 * jnp.maximum(equal - 1, 0)

        self._ranks = jax.jit(ranks)

    def __call__(
        self, params: Sasrec, histories: list[NDArray[np.int32]], targets: NDArray[np.int32]
    ) -> dict[str, float]:
        """Rank each user's target after their history.

        Args:
            histories: items before the target, in order.
            targets: (n,)
        """
        n = len(histories)
        found = np.empty(n)
        for first in range(0, n, self.users):
            part = histories[first : first + self.users]
            items = np.full((self.users, self.options.length), -1, np.int32)
            had = np.full((self.users, self.width), len(params.items), np.int32)
            target = np.zeros(self.users, np.int32)
            target[: len(part)] = targets[first : first + len(part)]
            for i, history in enumerate(part):
                items[i] = latest_first(history, self.options.length)
                had[i, : len(history)] = history
                had[i, : len(history)][history == target[i]] = len(params.items)
            ranks = self._ranks(params, jnp.asarray(items), jnp.asarray(target), jnp.asarray(had))
            found[first : first + len(part)] = np.asarray(ranks)[: len(part)]
        hit = found < 10
        return {"hr@10": float(hit.mean()), "ndcg@10": float((hit / np.log2(found + 2.0)).mean())}


class Epoch(NamedTuple):
    """What the passes over the data up to a validation came to; the loss is that of the last."""

    number: int
    loss: float
    valid: dict[str, float]
    params: Sasrec


def train(
    sequences: list[NDArray[np.int32]],
    items: int,
    options: Options,
    offline: Offline,
    seed: int = 1,
    *,
    go_on: Callable[[Epoch], bool] = lambda epoch: True,
) -> tuple[Epoch, dict[str, float]]:
    """Train, and rank with the weights of the epoch of best validation (protocol P3).

    Args:
        sequences: items of each user, in order, numbered from 0.
        items: how many there are.
        go_on: told each epoch; False ends the training.

    Returns:
        The best epoch, and the figures of the test.
    """
    users = [s for s in sequences if len(s) >= 3]
    training = [s[:-2] for s in users]
    step, state = begin(items, options, offline, seed)
    ranker, random = Ranker(options, max(len(s) for s in users)), np.random.default_rng(seed)
    validation = np.array([s[-2] for s in users], np.int32)
    best: Epoch | None = None
    for number in range(1, offline.epochs + 1):
        losses = []
        for batch in batches(training, options, offline, items, random):
            state, loss = step(state, batch)
            losses.append(loss)
        if number % offline.check and number < offline.epochs:
            continue
        epoch = Epoch(
            number, float(np.mean(np.array(losses))), ranker(state.params, training, validation), state.params
        )
        if best is None or epoch.valid["ndcg@10"] > best.valid["ndcg@10"]:
            best = epoch
        if not go_on(epoch) or number - best.number >= offline.patience * offline.check:
            break
    if best is None:
        raise ValueError("sasrec: at least one epoch and one user of three items are needed")
    tested = ranker(best.params, [s[:-1] for s in users], np.array([s[-1] for s in users], np.int32))
    return best, tested
