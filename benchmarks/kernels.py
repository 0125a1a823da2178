"""Time of one learning step, kernel against peer: biased_mf, bpr and softmax at d = 64.

    python -m benchmarks.kernels

Events are resolved before the clock starts, so that what is timed is the compiled loop: a row's
bookkeeping, the step, the history. Nothing is evaluated. The peers see the same pairs: river's BiasedMF
(one predict_one and one learn_one an event) and implicit's BPR on one thread (an epoch is one sample
for each pair). Users and items are known to all before, and histories are full. Times are those of the
processor: all of these use one thread, and other processes may run beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from implicit.cpu.bpr import BayesianPersonalizedRanking
from numpy.typing import NDArray
from river import reco
from scipy.sparse import csr_matrix

from benchmarks.batches import batch_of
from benchmarks.stream import zipf
from benchmarks.verdict import Report, interleaved, ratio, run_benchmark, timed
from state.draws import Draw
from state.learned import Learned
from state.memory import MemoryStore
from state.spec import new_spec
from streaming import learners
from streaming.events import EventBatch
from streaming.learners.loop import Batch

DIMENSION = 64
LEARNERS = ("biased_mf", "bpr", "softmax")
EPOCHS = 4  # of implicit's BPR in a round
PLAIN_BPR = {"negatives": 1, "context": 0}


class Pairs:
    """A stream of (user, item): the first part fills histories, the rest is timed.

    Args:
        users: each of them has 60 events or more in the first part.
        timed: events of the rest.
    """

    def __init__(self, users: int, items: int, timed: int, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        before = np.tile(np.arange(users), 60)
        self.user = np.concatenate([rng.permutation(before), rng.integers(0, users, timed)])
        self.item = np.concatenate([rng.permutation(items), zipf(rng, items, 1.0, len(self.user))])
        self.item = self.item[: len(self.user)]
        self.first = len(before)
        self.value = rng.integers(1, 6, len(self.user)).astype(np.float32)

    def events(self, first: int, last: int) -> EventBatch:
        """Events first … last - 1."""
        part = slice(first, last)
        return batch_of(self.user[part], self.item[part], self.value[part], first)


class Kernel:
    """A learner that knows all rows, and a batch that it learns again in each round."""

    def __init__(self, learner: str, pairs: Pairs, **options: Any) -> None:
        spec = new_spec(learner, {"dimension": DIMENSION, **options})
        self.learned = Learned(spec, MemoryStore(), user_cache=None, draw=Draw())
        self._learn(self._resolved(pairs, 0, pairs.first))
        self.batch = self._resolved(pairs, pairs.first, len(pairs.user))
        self._learn(self.batch)

    def _resolved(self, pairs: Pairs, first: int, last: int) -> Batch:
        events = pairs.events(first, last)
        self.learned.make_room(events)
        return self.learned.resolve(events, 0)

    def _learn(self, batch: Batch) -> None:
        self.learned.learn(batch._replace(number=self.learned.ledger.number))

    def __call__(self) -> None:
        """One round."""
        self._learn(self.batch)


def river_steps(pairs: Pairs, events: int) -> Callable[[], None]:
    """A round of river's BiasedMF over the first events that are timed, after all rows were made."""
    model: Any = reco.BiasedMF(n_factors=DIMENSION, seed=1)
    for user in range(int(pairs.user.max()) + 1):
        _ = model.u_latents[user], model.u_biases[user]
    for item in range(int(pairs.item.max()) + 1):
        _ = model.i_latents[item], model.i_biases[item]
    part = slice(pairs.first, pairs.first + events)
    rows = list(
        zip(pairs.user[part].tolist(), pairs.item[part].tolist(), pairs.value[part].tolist(), strict=True)
    )

    def steps() -> None:
        predict, learn = model.predict_one, model.learn_one
        for user, item, value in rows:
            predict(user, item)
            learn(user, item, value)

    return steps


def implicit_seconds(user: NDArray[np.int64], item: NDArray[np.int64]) -> tuple[float, int]:
    """Seconds that implicit's BPR takes for a sample on one thread, and the samples of an epoch.

    The difference of a long and a short fit: the preparations are in both.
    """
    matrix = csr_matrix((np.ones(len(user), np.float32), (user, item)))

    def fit(epochs: int) -> float:
        model = BayesianPersonalizedRanking(
            factors=DIMENSION, iterations=epochs, num_threads=1, random_state=1
        )
        return timed(lambda: model.fit(matrix, show_progress=False)).cpu

    return (fit(1 + EPOCHS) - fit(1)) / (EPOCHS * matrix.nnz), int(matrix.nnz)


def against_river(pairs: Pairs, names: list[str], peer_events: int, rounds: int) -> dict[str, Any]:
    """Microseconds an event of each learner and of river's BiasedMF, and their ratios."""
    kernels = {name: Kernel(name, pairs) for name in names}
    times = interleaved({**kernels, "river": river_steps(pairs, peer_events)}, rounds)
    events = {**{name: len(k.batch.user) for name, k in kernels.items()}, "river": peer_events}
    micros = {name: [1e6 * t.cpu / events[name] for t in times[name]] for name in times}
    return {
        "events_per_round": events,
        "us_per_event": micros,
        "share_of_river": {name: ratio(micros[name], micros["river"]) for name in names},
    }


def against_implicit(pairs: Pairs, rounds: int) -> dict[str, Any]:
    """Microseconds a sample of `bpr` and of implicit's BPR, and their ratios.

    A sample is one (user, item, negative). By default an event has several that share its user; "plain"
    is the form that implicit computes, one negative for an event and no context.
    """
    forms = {"default": Kernel("bpr", pairs), "plain": Kernel("bpr", pairs, **PLAIN_BPR)}
    samples = {name: int(form.learned.options.negatives) for name, form in forms.items()}
    user, item = pairs.user[pairs.first :], pairs.item[pairs.first :]
    micros: dict[str, list[float]] = {name: [] for name in (*forms, "implicit")}
    for _ in range(rounds):
        for name, form in forms.items():
            micros[name].append(1e6 * timed(form).cpu / (samples[name] * len(user)))
        micros["implicit"].append(1e6 * implicit_seconds(user, item)[0])
    return {
        "samples_per_event": samples,
        "us_per_sample": micros,
        "share_of_implicit": {name: ratio(micros[name], micros["implicit"]) for name in forms},
    }


def measure(quick: bool) -> Report:
    """All kernels."""
    users, items, timed_events, peer, rounds = (
        (50, 200, 500, 200, 1) if quick else (5000, 20_000, 100_000, 20_000, 7)
    )
    pairs, report = Pairs(users, items, timed_events), Report()
    names: list[str] = [name for name in LEARNERS if name in learners.names()]
    found = against_river(pairs, names, peer, rounds)
    report.figures = {"dimension": DIMENSION, "users": users, "items": items, "against_river": found}
    shares, micros = found["share_of_river"], found["us_per_event"]
    notes = {
        name: f"{np.median(micros[name]):.2f} µs, river {np.median(micros['river']):.1f} µs" for name in names
    }
    if "biased_mf" in names:
        report.at_least(
            "biased_mf: times as fast as river's BiasedMF", 1 / shares["biased_mf"], 50, notes["biased_mf"]
        )
    if "softmax" in names:
        report.at_most(
            "softmax: time as a share of river's BiasedMF step", shares["softmax"], 1, notes["softmax"]
        )
    if "bpr" in names:
        report.figures["against_implicit"] = sample = against_implicit(pairs, rounds)
        us = {name: float(np.median(times)) for name, times in sample["us_per_sample"].items()}
        for form, share in sample["share_of_implicit"].items():
            what = f"bpr, {form}: time of a sample as a share of implicit's, one thread"
            count = sample["samples_per_event"][form]
            note = f"{us[form]:.3f} µs, implicit {us['implicit']:.3f} µs; samples an event: {count}"
            # The target is for the learner as it comes; the plain form shows what a lone sample costs.
            report.at_most(what, share, 1 if form == "default" else None, note)
        report.beside("bpr: times as fast as river's BiasedMF, by event", 1 / shares["bpr"], notes["bpr"])
    return report


def main() -> int:
    """Measure, print, record."""
    return run_benchmark("kernels", __doc__, measure)


if __name__ == "__main__":
    raise SystemExit(main())
