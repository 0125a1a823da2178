"""Training beside the stream: remembered examples enter, steps are taken, weights that went astray go back.

A step whose loss or gradient is not finite, or whose loss is far above what it was lately, changes
nothing and is counted. After some of these in a row the weights go back to those of the last commit, and
where that is of no use, to the first ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import structlog
from numpy.typing import NDArray

from consumers.sessions_events import prepare
from state.sequences import Counts
from streaming.errors import InputFormatError, StoreFormatError
from streaming.kernels import mix
from streaming.learners.contract import Learner, Model
from streaming.learners.loop import bound
from streaming.session.examples import Examples
from streaming.session.loss import new_batch
from streaming.session.model import Params
from streaming.session.options import Options
from streaming.session.step import session_step

logger = structlog.get_logger()

REPEATED = 5  # bad steps in a row after which the weights go back
_FAR = 3.0  # a loss above so many times the mean, and one more, is an explosion
_HALF_LIFE = 100.0  # steps after which a loss counts half in the mean
_LOW_64 = 0xFFFF_FFFF_FFFF_FFFF


class Training:
    """The transformer's weights, and what moves them.

    Args:
        learner, seed: of the version.
        counts: totals, which go on from here.
        arrays: dense arrays as a commit kept them; none to begin with.
    """

    def __init__(
        self, options: Options, learner: Learner, seed: int, counts: Counts, arrays: list[NDArray[Any]]
    ) -> None:
        self.options, self.seed, self.counts = options, seed, counts
        self.step, self.state = session_step(options, seed)
        self._first = self.state
        self._form = jax.tree.structure(self.state)
        if arrays:
            _must_fit(jax.tree.leaves(self.state), arrays)
            self.state = jax.tree.unflatten(self._form, [jnp.asarray(array) for array in arrays])
        self._good = self.state
        self._tries = 0  # times the weights went back since the last good step
        self._prepare = bound(prepare, learner)
        self._batch, self._picks = new_batch(options), np.zeros(options.batch, np.int64)

    @property
    def params(self) -> Params:
        """The weights now."""
        return self.state.params

    @property
    def steps(self) -> int:
        """Steps tried, those that were dropped included."""
        return int(self.state.steps)

    @property
    def dropped(self) -> int:
        """Steps that changed nothing."""
        return int(self.state.dropped)

    def arrays(self) -> list[NDArray[Any]]:
        """Weights, moments and counts of steps, in a fixed order."""
        return [np.asarray(leaf) for leaf in jax.tree.leaves(self.state)]

    def committed(self) -> None:
        """The state is durable; unless steps go wrong, it is where weights go back to."""
        if not int(self.state.in_a_row):
            self._good = self.state

    def due(self, examples: Examples, model: Model, known: int) -> bool:
        """Whether there is enough to take a step from."""
        return int(examples.pushed[0]) >= self.options.batch and known >= model.options.start

    def train(self, examples: Examples, model: Model, known: int, number: int, at: int) -> float:
        """One step over the newest and some earlier examples.

        Args:
            known: items numbered so far.
            number: of the newest event, which the random draws hang on.
            at: events that the version had learned when its rows were read.

        Returns:
            The loss; NaN where the step was dropped.
        """
        options = self.options
        key = np.uint64(mix(np.uint64((int(mix(np.uint64(self.seed))) + number) & _LOW_64)))
        new = options.batch - options.replayed
        self._prepare(model, self._batch, examples, self._picks, known, at, options.remembered, new, key)
        before = self.state
        self.state, value = self.step(before, self._batch)
        loss, mean = float(value), self.counts.mean_loss
        if np.isfinite(loss) and mean > 0.0 and loss > _FAR * mean + 1.0:
            self.state = before._replace(
                steps=before.steps + 1, dropped=before.dropped + 1, in_a_row=before.in_a_row + 1
            )
            loss = float("nan")
        if np.isfinite(loss):
            weight = 1.0 - 2.0 ** (-1.0 / _HALF_LIFE) if mean > 0.0 else 1.0
            self.counts.mean_loss, self._tries = mean + weight * (loss - mean), 0
        elif int(self.state.in_a_row) >= REPEATED:
            self._go_back()
        return loss

    def _go_back(self) -> None:
        to = self._first if self._tries else self._good
        self._tries += 1
        self.counts.restored += 1
        self.counts.mean_loss = 0.0 if to is self._first else self.counts.mean_loss
        self.state = self.state._replace(
            params=to.params, moments=to.moments, in_a_row=jnp.zeros_like(to.in_a_row)
        )
        logger.warning("sequence_weights_went_back", steps=self.steps, to_first=to is self._first)

    def begin_with(self, path: Path) -> None:
        """Take weights that were trained elsewhere; moments begin anew.

        Raises:
            InputFormatError: the file holds no weights of this form.
        """
        leaves, form = jax.tree.flatten(self.state.params)
        try:
            with np.load(path) as file:
                found = [file[f"arr_{number}"] for number in range(len(leaves))]
        except (OSError, KeyError, ValueError) as error:
            raise InputFormatError(
                f"{path}: no weights of a transformer ({error}). `freshet sessions --save` writes them."
            ) from error
        for mine, theirs in zip(leaves, found, strict=True):
            if mine.shape != theirs.shape:
                raise InputFormatError(
                    f"{path}: weights of shape {theirs.shape} where {mine.shape} is wanted. The transformers "
                    "must have the same layers, dimension, length and hidden floats (--set)."
                )
        self.state = self.state._replace(
            params=jax.tree.unflatten(form, [jnp.asarray(one, jnp.float32) for one in found])
        )
        self._first = self._good = self.state

    def save(self, path: Path) -> None:
        """Write the weights, for another version to begin with."""
        leaves = jax.tree.leaves(self.state.params)
        with path.open("wb") as file:
            np.savez(file, *(np.asarray(leaf) for leaf in leaves))


def _must_fit(wanted: Sequence[jax.Array], arrays: Sequence[NDArray[Any]]) -> None:
    """Refuse what another release kept.

    Raises:
        StoreFormatError: the arrays are not those of this transformer.
    """
    if [one.shape for one in wanted] != [one.shape for one in arrays]:
        raise StoreFormatError(
            f"The sequences hold {len(arrays)} arrays of a transformer of another form, this Freshet has "
            f"{len(wanted)}. Use the Freshet that wrote them, or end the worker and remove the directory "
            "sequences in that of the version: they are begun anew from the log."
        )
