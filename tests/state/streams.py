"""Event batches made from plain lists, and a stream with everything in it that state has to cope with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from state.learned import Learned
from state.store import Store
from streaming.events import EventBatch, Ids


def ids(names: Sequence[str | bytes]) -> Ids:
    """Ids over one buffer."""
    raw = [name.encode() if isinstance(name, str) else name for name in names]
    ends = np.cumsum([len(r) for r in raw] or [0]).astype(np.int64)[: len(raw)]
    lengths = np.array([len(r) for r in raw], np.int64)
    return Ids(np.frombuffer(b"".join(raw) + b"\0", np.uint8), ends - lengths, ends)


def batch(
    users: Sequence[str | bytes],
    items: Sequence[str | bytes],
    *,
    seconds: Sequence[int] | None = None,
    values: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    first: int = 0,
) -> EventBatch:
    """Events with these ids, one second apart from 1,000,000 where no times are given."""
    n = len(users)
    times = np.arange(1_000_000, 1_000_000 + n) if seconds is None else np.asarray(seconds)
    return EventBatch(
        ids(users),
        ids(items),
        np.arange(first, first + n),
        times.astype(np.int64) * 1_000_000,
        np.asarray(values if values is not None else np.ones(n), np.float32),
        np.asarray(weights if weights is not None else np.ones(n), np.float32),
    )


def lively(n: int, *, seed: int = 1, users: int = 60, items: int = 40, late: float = 0.0) -> EventBatch:
    """A skewed stream over a week in which ids come and go; some events dislike, some teach nothing.

    `late`: share of events that come up to a week late.
    """
    random = np.random.default_rng(seed)
    phase = np.arange(n) * 4 // n  # a quarter of the ids is replaced in each quarter
    user = (users * random.random(n) ** 2).astype(int) + phase * (users // 4)
    item = (items * random.random(n) ** 2).astype(int) + phase * (items // 4)
    seconds = 1_000_000 + np.arange(n) * (7 * 86_400) // n
    seconds = np.where(random.random(n) < late, seconds - random.integers(0, 7 * 86_400, n), seconds)
    return batch(
        [f"user-{u}" for u in user],
        [f"{'é' * (i % 3)}{i}" for i in item],
        seconds=np.maximum(seconds, 0),
        values=random.integers(1, 6, n),
        weights=random.choice([1.0, 0.25, -0.5, 0.0], n, p=[0.7, 0.2, 0.05, 0.05]),
    )


def teach(learned: Learned, events: EventBatch, *, commit: int, batch_size: int | None = None) -> Learned:
    """Learn what the ledger says is still to be learned, as the worker does; commit every so many events."""
    partition = learned.ledger.partition("stream")
    done = learned.ledger.sources[partition].next_offset
    while done < len(events):
        rest = events.part(done, min(len(events), done + min(commit, batch_size or commit)))
        rest = rest.part(0, learned.part(rest))
        if not learned.make_room(rest):
            learned.commit()
            assert learned.make_room(rest)
        learned.learn(learned.resolve(rest, partition))
        learned.ledger.record(partition, done, done + len(rest))
        done += len(rest)
        if learned.pending >= commit:
            learned.commit()
    learned.commit()
    return learned


def everything(store: Store) -> dict[bytes, bytes]:
    """All keys and values."""
    return {k: v for prefix in b"uicdjoprm" for k, v in store.scan(bytes([prefix]))}
