"""A map of the items of a version: vectors enter, places on a plane leave, stable from one to the next."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from consumers.serving import Serving
from state.answers import Answers
from streaming.errors import VersionError

MOST_ITEMS = 2000
NEW_S = 10.0  # between two maps of a version
_EDGE = 0.98  # quantile of the distances from the middle that lies at 1


class Chart(NamedTuple):
    """Items on a plane.

    Attributes:
        ids: of the items, the most frequent first.
        places: (n, 2) about −1 … 1; the few that lie far out are beyond.
        events: (n,) learned of each.
        explained: share of the variance that the two directions hold.
    """

    ids: list[str]
    places: NDArray[np.float32]
    events: NDArray[np.uint32]
    explained: float


def frequent_items(found: Answers) -> tuple[list[str], NDArray[np.float32], NDArray[np.uint32]]:
    """Ids, (n, dimension) vectors and events of the items with most events, at most MOST_ITEMS.

    Raises:
        VersionError: the learner has no item vectors.
    """
    learned = found.learned
    if not any(field.name == "vector" for field in learned.layout.item):
        raise VersionError(
            f'The learner "{learned.spec.learner}" of version "{found.version}" has no item vectors to map. '
            "Choose a version whose learner has."
        )
    items = learned.items
    events = items.rows.events[: items.count]
    slots = np.argsort(-events.astype(np.int64), kind="stable")[:MOST_ITEMS]
    ids = [items.ids.id_of(slot).decode() for slot in slots.tolist()]
    vectors = items.rows.floats[slots, learned.layout.column("item", "vector")].astype(np.float32)
    return ids, np.nan_to_num(vectors, posinf=0.0, neginf=0.0), events[slots].copy()


def chart(
    ids: list[str],
    vectors: NDArray[np.float32],
    events: NDArray[np.uint32],
    before: Chart | None = None,
) -> Chart:
    """Project on the two main directions, turned so that items lie where they lay before.

    The directions are the principal components of the vectors at unit length; the turn (a rotation or a
    reflection) is the orthogonal Procrustes solution over the items of both charts: with MᵀB = U S Vᵀ,
    R = U Vᵀ (Schönemann 1966).

    Args:
        vectors: (n, d).
    """
    if not ids:
        return Chart([], np.zeros((0, 2), np.float32), events, 0.0)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = (vectors / np.maximum(lengths, 1e-12)).astype(np.float64)
    unit -= unit.mean(axis=0)
    variance, directions = np.linalg.eigh(unit.T @ unit)
    places = unit @ directions[:, ::-1][:, :2]
    if places.shape[1] < 2:
        places = np.column_stack([places, np.zeros(len(ids))])
    total = float(variance.sum())
    explained = float(variance[::-1][:2].sum()) / total if total > 0 else 0.0
    places /= max(float(np.quantile(np.linalg.norm(places, axis=1), _EDGE)), 1e-9)
    if before is not None:
        places = places @ _turn(ids, places, before)
    return Chart(ids, places.astype(np.float32), events, explained)


def _turn(ids: list[str], places: NDArray[np.float64], before: Chart) -> NDArray[np.float64]:
    """The (2, 2) orthogonal matrix that brings items nearest to their former places."""
    was = {name: k for k, name in enumerate(before.ids)}
    both = [(k, was[name]) for k, name in enumerate(ids) if name in was]
    if len(both) < 3:
        return np.eye(2)
    now, then = (np.array(side) for side in zip(*both, strict=True))
    left, _, right = np.linalg.svd(places[now].T @ before.places[then].astype(np.float64))
    turn: NDArray[np.float64] = left @ right
    return turn


class Maps:
    """The newest map of each version that was asked for; used from one event loop."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._made: dict[str, tuple[float, int, Chart, bytes]] = {}
        self._mapping: dict[str, asyncio.Task[bytes]] = {}

    async def of(self, version: str) -> bytes:
        """A version's map as JSON, made anew when it is some seconds old.

        Raises:
            FreshetError: the version cannot be read, or its items have no vectors.
        """
        held = self._made.get(version)
        if held is not None and time.monotonic() - held[0] < NEW_S:
            return held[3]
        task = self._mapping.get(version)
        if task is None:
            task = self._mapping[version] = asyncio.create_task(self._map(version))
            task.add_done_callback(lambda _: self._mapping.pop(version, None))
        return await asyncio.shield(task)

    async def _map(self, version: str) -> bytes:
        held = self._made.get(version)
        before = held[2] if held is not None else None
        told = await self._serving.ask(version, frequent_items)
        made = await asyncio.to_thread(chart, *told.value, before)
        points = [
            [name, round(x, 4), round(y, 4), count]
            for name, (x, y), count in zip(made.ids, made.places.tolist(), made.events.tolist(), strict=True)
        ]
        number = held[1] + 1 if held is not None else 1
        body = msgspec.json.encode(
            {"version": version, "number": number, "explained": made.explained, "items": points}
        )
        known = self._serving.names()
        self._made = {name: one for name, one in self._made.items() if name in known}
        self._made[version] = time.monotonic(), number, made, body
        return body
