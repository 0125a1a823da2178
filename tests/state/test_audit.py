"""Whole stores have no problems; each kind of damage and contradiction is named by its key."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import state.learned
from state.audit import verify
from state.findings import MOST_PROBLEMS, Findings, text_of
from state.learned import Learned
from state.ledger import as_json, sealed, unsealed
from state.memory import MemoryStore
from state.spec import Spec, new_spec
from streaming.errors import StoreError
from tests.state.streams import lively, teach

EVENTS = 1500
LIVES = {
    "admit_users": 2,
    "admit_items": 2.5,
    "admission_half_life": 300,
    "users_live_s": 86_400,
    "items_live_s": 2 * 86_400,
}
Values = dict[bytes, bytes]


@pytest.fixture(autouse=True)
def short_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expiry and sweeps every 256 events instead of every 16,384."""
    monkeypatch.setattr(state.learned, "CHECK_EVENTS", 256)


def taught(spec: Spec) -> MemoryStore:
    store = MemoryStore()
    store.write([(b"mformat", b"1")])
    teach(Learned(spec, store, user_cache=None), lively(EVENTS, late=0.1), commit=400)
    return store


def spec_of(learner: str, given: dict[str, Any]) -> Spec:
    small = {"dimension": 4, "negatives": 8, "recent": 500} if learner == "softmax" else {}
    return new_spec(learner, {"evaluation_rate": 0.2, **small, **given})


@pytest.mark.parametrize("learner", ["popularity", "transitions", "softmax"])
@pytest.mark.parametrize("given", [{}, LIVES], ids=["bare", "forgetful"])
def test_whole_store_has_no_problems(learner: str, given: dict[str, Any]) -> None:
    spec = spec_of(learner, given)
    store = taught(spec)
    told: list[int] = []
    found = verify(store, spec, told.append)
    assert (found.found, found.problems) == (0, [])
    values = dict(store.scan(b""))
    assert found.events == EVENTS
    assert found.users == sum(key.startswith(b"u") for key in values)
    assert found.items == sum(key.startswith(b"i") for key in values)
    assert found.users + found.items + found.values == told[-1] == len(values)


def test_store_in_which_nothing_was_learned_has_no_problems() -> None:
    spec, store = spec_of("popularity", {}), MemoryStore()
    store.write([(b"mformat", b"1")])
    found = verify(store, spec)
    assert (found.found, found.values, found.events) == (0, 1, 0)


def changed(
    prefix: bytes, change: Callable[[Any], Any], report: bytes | None = None
) -> Callable[[Values], bytes]:
    """Change the JSON of the first value with a prefix, its checksum right."""

    def damage(values: Values) -> bytes:
        key = min(k for k in values if k.startswith(prefix))
        values[key] = sealed(as_json(change(json.loads(unsealed(key, values[key])))))
        return key if report is None else report

    return damage


def flipped(prefix: bytes, at: int) -> Callable[[Values], bytes]:
    def damage(values: Values) -> bytes:
        key = min(k for k in values if k.startswith(prefix))
        value = bytearray(values[key])
        value[at] ^= 0x10
        values[key] = bytes(value)
        return key

    return damage


def cut(values: Values) -> bytes:
    key = min(k for k in values if k.startswith(b"u"))
    values[key] = values[key][:-3]
    return key


def removed(prefix: bytes, report: bytes | None = None) -> Callable[[Values], bytes]:
    def damage(values: Values) -> bytes:
        key = min(k for k in values if k.startswith(prefix))
        del values[key]
        return key if report is None else report

    return damage


def added(key: bytes, value: bytes) -> Callable[[Values], bytes]:
    def damage(values: Values) -> bytes:
        values[key] = value
        return key

    return damage


def doubled(prefix: bytes) -> Callable[[Values], bytes]:
    """A row stands under a second key, as whole as the first."""

    def damage(values: Values) -> bytes:
        values[prefix + b"other"] = values[min(k for k in values if k.startswith(prefix))]
        return b""

    return damage


DAMAGES = {
    "user row, its history": (flipped(b"u", 50), "checksum"),
    "user row, its checksum": (flipped(b"u", 45), "checksum"),
    "user row, cut": (cut, "checksum"),
    "item row": (flipped(b"i", 48), "checksum"),
    "state of the tables": (flipped(b"mtables", 3), "checksum"),
    "ledger": (flipped(b"mledger", 3), "checksum"),
    "offset": (flipped(b"o", 3), "checksum"),
    "journal": (flipped(b"j", 3), "checksum"),
    "unknown key": (added(b"xyz", b""), "no key of Freshet's"),
    "unknown name": (added(b"mother", b""), "no key of Freshet's"),
    "unknown parameter": (added(b"pindex", sealed(b"1234")), "not parameters"),
    "unwanted index": (added(b"d" + bytes(8) + b"u", b""), "index by time"),
    "other format": (added(b"mformat", b"9"), "expected format"),
    "missing user": (removed(b"u", b""), "rows of users have"),
    "missing item": (removed(b"i", b""), "do not have the slots"),
    "missing parameters": (removed(b"mprequential"), "it is missing"),
    "missing journal": (removed(b"j", b"o000000"), "its journal ends at 0"),
    "item twice": (doubled(b"i"), "serials that were given"),
    "offset ahead": (changed(b"o", lambda s: {**s, "next_offset": EVENTS + 1}), "its journal ends at"),
    "more learned than there was": (
        changed(b"mledger", lambda t: {**t, "learned": EVENTS + 1}),
        "cannot come from",
    ),
    "fewer events than rows know": (changed(b"mledger", lambda t: {**t, "number": 10}), "cannot come from"),
    "earlier watermark": (
        changed(b"mledger", lambda t: {**t, "watermark": 5}, report=b"u"),
        "seen later",
    ),
    "evaluated counts": (
        changed(b"mprequential", lambda p: {**p, "segments": [p["segments"][1], *p["segments"][1:]]}),
        "do not add up",
    ),
    "other spec": (changed(b"mspec", lambda s: {**s, "seed": 5}), "another spec"),
}


@pytest.fixture(scope="module")
def whole() -> Values:
    return dict(taught(spec_of("popularity", {})).scan(b""))


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named(whole: Values, name: str) -> None:
    damage, expected = DAMAGES[name]
    values = dict(whole)
    key = damage(values)
    found = problems_of(values)
    assert found.found == len(found.problems) > 0
    told = [each.what for each in found.problems if each.key.startswith(text_of(key))]
    assert any(expected in what for what in told), found.problems


def problems_of(values: Values, given: dict[str, Any] | None = None) -> Findings:
    store = MemoryStore()
    store.write(values.items())
    return verify(store, spec_of("popularity", given or {}))


def test_each_bad_row_of_many_is_named_and_good_neighbours_count(whole: Values) -> None:
    values = dict(whole)
    bad = sorted(k for k in values if k.startswith(b"u"))[::3]
    for key in bad:
        values[key] = values[key][:-4] + b"\0\1\2\3"
    found = problems_of(values)
    assert {each.key for each in found.problems} >= {key.decode() for key in bad}
    assert found.users == sum(key.startswith(b"u") for key in whole)


def test_user_that_the_index_by_time_lacks_is_named() -> None:
    values = dict(taught(spec_of("popularity", LIVES)).scan(b""))
    lost = min(key for key in values if key.startswith(b"d"))
    del values[lost]
    problems = problems_of(values, LIVES).problems
    assert ("u" + lost[9:].decode(), "the index by time does not know it.") in problems


def test_problems_beyond_the_first_thousand_are_counted(whole: Values) -> None:
    found = problems_of({**whole, **{b"x%05d" % k: b"" for k in range(1500)}})
    assert (found.found, len(found.problems)) == (1500, MOST_PROBLEMS)


def test_part_that_cannot_be_read_is_named_and_the_rest_is_checked(whole: Values) -> None:
    class Damaged(MemoryStore):
        """Reading ends at the third item."""

        def scan(self, prefix: bytes) -> Any:
            for k, pair in enumerate(super().scan(prefix)):
                if prefix == b"i" and k == 3:
                    raise StoreError("a block is damaged")
                yield pair

    store = Damaged()
    store.write(whole.items())
    found = verify(store, spec_of("popularity", {}))
    assert ("i", "keys that start like this can be read in part only: a block is damaged") in found.problems
    assert found.users > 0
