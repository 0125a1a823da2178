"""The training step: a batch of sequences enters, weights move; one compiled program for all steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]

from streaming.session.loss import Batch, residual_loss, weighted_mean
from streaming.session.model import LOW_31, Params, correction_of, initial, read, scale_of
from streaming.session.options import Options

P = TypeVar("P")  # weights
B = TypeVar("B")  # a batch


class Moments(NamedTuple, Generic[P]):
    """What a step moves beside the weights that are served."""

    optimiser: optax.OptState
    lead: P  # how far the weights that steps move are ahead of their average


class State(NamedTuple, Generic[P]):
    """All that a step reads and writes."""

    params: P  # what is served: the average over steps
    moments: Moments[P]
    seed: jax.Array  # () of the random keys
    steps: jax.Array  # () steps tried: the number of the next random key
    dropped: jax.Array  # () steps whose loss or gradient was not finite
    in_a_row: jax.Array  # () of these, since the last good one


class Compiled(Generic[P, B]):
    """A training step, compiled for the shapes it is called with, and how often that was.

    state, loss = step(state, batch): loss is NaN where the step was dropped.
    """

    def __init__(
        self,
        loss: Callable[[P, B, jax.Array], jax.Array],
        optimiser: optax.GradientTransformation,
        averaging: float = 0.0,
    ) -> None:
        """`loss` is a function of weights, batch and random key; `averaging` 0 serves the newest weights."""
        self.compilations = 0
        self._optimiser = optimiser

        def step(state: State[P], batch: B) -> tuple[State[P], jax.Array]:
            self.compilations += 1  # this body runs only while it is traced
            key = jax.random.fold_in(jax.random.key(state.seed, impl="rbg"), state.steps)
            fast = jax.tree.map(jnp.add, state.params, state.moments.lead)
            value, gradient = jax.value_and_grad(loss)(fast, batch, key)
            moved, inner = optimiser.update(gradient, state.moments.optimiser, _as_updates(fast))
            # From the old average to the newest weights: the average goes 1 − averaging of that way.
            ahead = jax.tree.map(jnp.add, state.moments.lead, moved)
            good = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(gradient))
            new = State(
                jax.tree.map(lambda a, b: a + (1.0 - averaging) * b, state.params, ahead),
                Moments(inner, jax.tree.map(lambda b: averaging * b, ahead)),
                state.seed,
                state.steps + 1,
                state.dropped,
                jnp.zeros_like(state.in_a_row),
            )
            old = state._replace(
                steps=state.steps + 1, dropped=state.dropped + 1, in_a_row=state.in_a_row + 1
            )
            kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
            return kept, jnp.where(good, value, jnp.nan)

        self._step = jax.jit(step)

    def begin(self, params: P, seed: int) -> State[P]:
        """The state before the first step."""
        zero = jnp.zeros((), jnp.int32)
        moments = Moments(self._optimiser.init(_as_updates(params)), jax.tree.map(jnp.zeros_like, params))
        return State(params, moments, jnp.asarray(seed & LOW_31, jnp.int32), zero, zero, zero)

    def __call__(self, state: State[P], batch: B) -> tuple[State[P], jax.Array]:
        """One step."""
        moved: tuple[State[P], jax.Array] = self._step(state, batch)
        return moved


def _as_updates(params: Any) -> Any:
    """optax calls any tree of arrays its Params; our trees are NamedTuples, which its type leaves out."""
    return params


def adam(options: Options) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015) on gradients whose norm is cut."""
    return optax.chain(
        optax.clip_by_global_norm(options.clip),
        optax.adam(options.learning_rate, b1=options.momentum, b2=options.smoothing),
    )


def loss_of(options: Options) -> Callable[[Params, Batch, jax.Array | None], jax.Array]:
    """Mean loss of a batch, q = h + δ, as a function of weights, batch and random key."""

    def loss(params: Params, batch: Batch, key: jax.Array | None) -> jax.Array:
        mask = jnp.asarray(batch.mask)
        z = read(params, jnp.asarray(batch.rows), mask, jnp.asarray(batch.gap), options, key)  # (B, D)
        query = jnp.asarray(batch.user) + correction_of(params, z, mask, options)  # (B, D)
        scale = scale_of(params, z, mask, options)  # (B,)
        return weighted_mean(residual_loss(query, batch, scale, options), batch.weight)

    return loss


@cache
def compiled(options: Options) -> Compiled[Params, Batch]:
    """The step of the session transformer; one for all that have the same options."""
    return Compiled(loss_of(options), adam(options), options.averaging)


def session_step(options: Options, seed: int) -> tuple[Compiled[Params, Batch], State[Params]]:
    """The step of the session transformer, and the state it begins with."""
    step = compiled(options)
    return step, step.begin(initial(options, seed), seed)
