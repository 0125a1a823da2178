"""What every learner promises: each file of `streaming/learners` is found here by its name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streaming import learners
from streaming.errors import SettingError
from streaming.learners.contract import Event, Model
from streaming.learners.decay import half_life_scale
from streaming.learners.model import width_of
from tests.streaming.learners.harness import Harness, numbered

USERS, ITEMS, EVENTS = 9, 24, 160
SMALL = {"dimension": 8, "negatives": 6, "neighbours": 5}

every_learner = pytest.mark.parametrize("name", learners.names())


def small(name: str, **more: Any) -> dict[str, Any]:
    fields = learners.load(name).options._fields
    return {k: v for k, v in {**SMALL, **more}.items() if k in fields}


def stream(seed: int = 3) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(seed)
    return {
        "user": random.integers(0, USERS, EVENTS),
        "item": numbered(np.minimum(random.geometric(0.12, EVENTS) - 1, ITEMS - 3).tolist()),
        "time": 1_700_000_000 + np.cumsum(random.integers(0, 3, EVENTS)) * 40,
        "value": random.integers(1, 6, EVENTS).astype(np.float64),
        "weight": random.choice([1.0, 1.0, 1.0, 0.5, 0.0, -1.0], EVENTS),
    }


def harness(name: str, seed: int = 1, **more: Any) -> Harness:
    return Harness(name, USERS, ITEMS, seed=seed, **small(name, **more))


def learned(name: str, seed: int = 1) -> Harness:
    h = harness(name, seed)
    h.run(**stream())
    return h


def arrays(part: Any, path: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """All arrays of a model but those that are not kept."""
    if isinstance(part, np.ndarray):
        yield path, part
    elif isinstance(part, tuple):
        for field in part._fields:  # type: ignore[attr-defined]
            if field not in ("options", "workspace"):
                yield from arrays(getattr(part, field), f"{path}.{field}")


def kept(model: Model) -> dict[str, bytes]:
    return {path: array.tobytes() for path, array in arrays(model)}


def event_of(h: Harness, user: int, item: int, *, weight: float = 1.0, value: float = 1.0) -> Event:
    """The next event, its fields of the types that the loop gives them."""
    return Event(
        np.int32(user), np.int32(item), np.int32(h.known), h.number + 1,
        np.int64(1_800_000_000), np.float32(value), np.float32(weight), np.uint64(77),
    )  # fmt: skip


def scores(h: Harness, user: int) -> NDArray[np.float64]:
    out = np.full(h.known, np.nan, np.float32)
    h.learner.score(h.model, event_of(h, user, 0), out)
    return out.astype(np.float64)


def lead(h: Harness, user: int, item: int) -> float:
    """By how much an item's score is above the mean of the others."""
    s = scores(h, user)
    return float(s[item] - np.delete(s, item).mean())


def once(h: Harness, user: int, item: int, *, weight: float = 1.0, value: float = 1.0) -> None:
    one = np.ones(1)
    h.run(np.array([user]), np.array([item]), 1_800_000_000 * one, value=value * one, weight=weight * one)


@every_learner
@pytest.mark.parametrize("size", [1, 7])
def test_batches_of_any_size_give_the_same_bytes(name: str, size: int) -> None:
    whole, parts, events = learned(name), harness(name), stream()
    for start in range(0, EVENTS, size):
        parts.run(**{k: v[start : start + size] for k, v in events.items()})
    assert kept(parts.model) == kept(whole.model)


def rows_of(model: Model) -> dict[str, list[NDArray[Any]]]:
    """What a commit writes of each row, the row's number first."""
    history, lists = model.history, model.neighbours
    users = [*model.users[:3], history.serial, history.time, history.pushed]
    items = [*model.items[:3], *(np.moveaxis(a, 0, 1) for a in lists)]
    return {"users": [a.copy() for a in users], "items": [a.copy() for a in items]}


@every_learner
def test_every_row_that_changes_is_marked_as_touched(name: str) -> None:
    h, events = harness(name, half_life=2.0, bias_half_life=2.0, popularity_half_life=2.0), stream()
    for n in range(EVENTS):
        before = rows_of(h.model)
        h.run(**{k: v[n : n + 1] for k, v in events.items()})
        for kind, after in rows_of(h.model).items():
            touched = getattr(h.model, kind).touched == n + 1
            for old, new in zip(before[kind], after, strict=True):
                changed = (old != new).reshape(len(old), -1).any(axis=1)
                assert not (changed & ~touched).any(), (
                    f"event {n + 1}: {kind} {np.flatnonzero(changed & ~touched)}"
                )


@every_learner
def test_same_seed_gives_same_bytes_and_another_seed_others(name: str) -> None:
    assert kept(learned(name).model) == kept(learned(name).model)
    h = learned(name, seed=2)
    if any(f.sigma > 0.0 for f in (*h.layout.user, *h.layout.item)):
        assert kept(h.model) != kept(learned(name).model)


@every_learner
def test_scores_are_finite_for_every_known_item(name: str) -> None:
    h = learned(name)
    for user in range(USERS):
        assert np.isfinite(scores(h, user)).all()
    h = harness(name)
    h.known = 5
    assert np.isfinite(scores(h, 0)).all()


@every_learner
def test_positive_events_raise_an_item_above_the_others(name: str) -> None:
    h = learned(name)
    before = lead(h, 2, 6)
    for _ in range(6):
        once(h, 2, 6, value=5.0)
    assert lead(h, 2, 6) > before


@every_learner
def test_negative_event_does_not_raise_its_item(name: str) -> None:
    for item in (0, 4, 9):
        h = learned(name)
        before = lead(h, 2, item)
        once(h, 2, item, weight=-1.0)
        assert lead(h, 2, item) <= before + 1e-5 * max(1.0, abs(before))


@every_learner
def test_weight_zero_changes_nothing_but_counts(name: str) -> None:
    h = learned(name)
    before, events = kept(h.model), h.model.users.events[1]
    once(h, 1, 3, weight=0.0)
    changed = {path for path, data in kept(h.model).items() if data != before[path]}
    assert changed <= {
        ".done",
        *(f".{kind}.{field}" for kind in ("users", "items") for field in ("events", "seen", "touched")),
    }
    assert h.model.users.events[1] == events + 1


@every_learner
def test_items_that_are_gone_are_never_read(name: str) -> None:
    h = learned(name)
    model, fresh = h.model, ITEMS - 2
    old = int(model.history.serial[2, 0])
    model.slot_of[old] = -1  # its slot goes to a new item
    model.slot_of[fresh], model.serial_of[old] = old, fresh
    model.items.floats[-1] = np.nan  # what slot -1 would read
    model.neighbours.weight[:, -1] = np.nan
    assert np.isfinite(scores(h, 2)).all()
    for item in (1, 2, 3, old):
        once(h, 2, item, value=3.0)
    assert np.isfinite(scores(h, 2)).all()
    assert model.items.touched[-1] == 0


def documented(options: type[Any]) -> str:
    """The docstring of options, with those that it refers to."""
    text = options.__doc__ or ""
    others = [n for n in learners.names() if f"those of {n}" in text.lower()]
    return text + "".join(documented(learners.load(n).options) for n in others)


@every_learner
def test_every_option_is_explained(name: str) -> None:
    options = learners.load(name).options
    lines = documented(options).splitlines()
    heads = {word.strip() for line in lines for word in line.split(":")[0].split(",")}
    assert set(options._fields) <= heads


@every_learner
def test_options_that_cannot_be_are_refused(name: str) -> None:
    learner = learners.load(name)
    with pytest.raises(SettingError, match="no option"):
        learners.options_of(learner, {"no_such_option": 1})
    for field, default in learner.options()._asdict().items():
        if isinstance(default, bool):
            wrong: Any = "perhaps"
        else:
            wrong = -1 if isinstance(default, int) else float("nan")
        with pytest.raises(SettingError):
            learners.options_of(learner, {field: wrong})


def assert_same_order(by: NDArray[Any], values: NDArray[Any]) -> None:
    """Values ordered by `by` fall, up to rounding."""
    ordered = values[np.argsort(-by, kind="stable")]
    assert (np.diff(ordered) <= 1e-4 * max(1e-3, np.ptp(values))).all()


@every_learner
@pytest.mark.parametrize("cosine", [False, True])
def test_query_ranks_as_the_score_does(name: str, cosine: bool) -> None:
    """Up to what depends on the user's own last items, and to counters in lists, which no vector holds."""
    learner = learners.load(name)
    if learner.query is None or (cosine and "cosine" not in learner.options._fields):
        pytest.skip("not embedded, or has no such option")
    if learner.layout(learner.options()).neighbours[0]:
        pytest.skip("mixes in counters")
    h = harness(name, cosine=cosine)
    h.run(**stream())
    vector = h.layout.column("item", "vector")
    for user in range(USERS):
        query = np.zeros(vector.stop, np.float32)
        learner.query(h.model, event_of(h, user, 0), query)
        near = h.model.items.floats[: h.known, vector] @ query
        half_life = learner.bias_half_life(h.options) if learner.bias_half_life else np.inf
        scale = np.float32(half_life_scale(event_of(h, user, 0).number, half_life))
        near += scale * h.model.items.floats[: h.known, h.layout.column("item", "bias")][:, 0]
        had = h.model.slot_of[h.model.history.serial[user, : h.model.history.pushed[user]]]
        others = np.setdiff1d(np.arange(h.known), had)
        assert_same_order(near[others], scores(h, user)[others])


@every_learner
@pytest.mark.parametrize("cosine", [False, True])
def test_parts_of_an_explanation_sum_to_the_order_of_the_score(name: str, cosine: bool) -> None:
    learner = learners.load(name)
    if learner.explain is None or (cosine and "cosine" not in learner.options._fields):
        pytest.skip("explains nothing, or has no such option")
    h = harness(name, cosine=cosine)
    h.run(**stream())
    for user in range(0, USERS, 3):
        sums = np.zeros(h.known)
        for item in range(h.known):
            parts = np.full(3 + h.layout.history, np.nan, np.float32)
            learner.explain(h.model, event_of(h, user, item), parts)
            sums[item] = parts.astype(np.float64).sum()
        assert_same_order(sums, scores(h, user))


@every_learner
def test_layout_names_each_field_once_and_vectors_come_first(name: str) -> None:
    h = harness(name)
    for kind, fields, rows in (
        ("user", h.layout.user, h.model.users),
        ("item", h.layout.item, h.model.items),
    ):
        names = [f.name for f in fields]
        assert len(names) == len(set(names))
        assert all(f.width >= 1 and f.sigma >= 0.0 for f in fields)
        assert rows.floats.shape[1] >= width_of(fields)
        if "vector" in names:
            assert h.layout.column(kind, "vector").start == 0
        for field in fields:
            if field.sigma == 0.0:
                assert (rows.floats[:, h.layout.column(kind, field.name)] == np.float32(field.fill)).all()
        with pytest.raises(KeyError):
            h.layout.column(kind, "no such field")
    assert (h.learner.query is None) == ("vector" not in [f.name for f in h.layout.item])
