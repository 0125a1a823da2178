"""A fork goes on from what its source had learned, and is refused what the rows cannot carry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from state.forks import fork, forked_spec
from state.ledger import Ledger
from state.lineage import read_lineage
from state.spec import difference_of, new_spec
from state.versions import Registry, Version, checkpoint_of
from streaming.errors import SettingError, StoreError, VersionError
from tests.consumers.worked import append, everything, learn, lines, made

SMALL = {"dimension": 4, "negatives": 3, "recent": 100, "history": 5, "context": 2, "start": 2}


@pytest.fixture
def source(tmp_path: Path) -> Version:
    version = made(tmp_path / "home", name="a")
    learn(version, append(tmp_path / "a.jsonl", lines(300, seed=1)))
    return version


def forked(source: Version, name: str = "b", **given: Any) -> Version:
    registry = Registry(source.path.parent.parent)
    with source.open() as store:
        fork(
            registry,
            source,
            name,
            forked_spec(source, given),
            lambda half: store.checkpoint(checkpoint_of(half)),
        )
    return registry.get(name)


def without(store: dict[bytes, bytes], *keys: bytes) -> dict[bytes, bytes]:
    return {key: value for key, value in store.items() if key not in keys}


def test_fork_has_all_that_its_source_has_and_its_own_spec_and_identity(source: Version) -> None:
    other = forked(source, evaluation_rate=0.5)
    assert other.spec.evaluation_rate == 0.5 and other.identity != source.identity
    own = (b"mspec", b"mlineage")
    assert without(everything(other.store_path), *own) == without(everything(source.store_path), *own)
    with other.reading() as store:
        (origin,) = read_lineage(store)
        assert Ledger.read(store).number == 270
    assert (origin.kind, origin.source, origin.number) == ("fork", "a", 270)
    assert origin.detail == "evaluation_rate 0.2 → 0.5" and origin.spec["evaluation_rate"] == 0.2
    assert list(origin.offsets.values()) == [300]
    assert other.snapshots() == [270] and not source.snapshots()
    assert everything(other.snapshot_path(270)) == everything(other.store_path)


def test_source_and_fork_go_on_from_the_same_offsets_and_stay_apart(source: Version, tmp_path: Path) -> None:
    other = forked(source)
    path = append(tmp_path / "a.jsonl", lines(100, seed=1, start=300))
    learn(source, path)
    learn(other, path)
    own = (b"mspec", b"mlineage")
    assert without(everything(other.store_path), *own) == without(everything(source.store_path), *own)
    learn(other, append(tmp_path / "b.jsonl", lines(10, seed=2)))
    assert everything(other.store_path) != everything(source.store_path)


def test_fork_of_a_fork_knows_both_beginnings(source: Version) -> None:
    third = forked(forked(source), "c")
    with third.reading() as store:
        assert [origin.source for origin in read_lineage(store)] == ["a", "b"]


def test_beginning_of_a_fork_stays_however_few_snapshots_are_kept(source: Version, tmp_path: Path) -> None:
    other = forked(source)
    for k in range(3):
        learn(other, append(tmp_path / "a.jsonl", lines(50, seed=1, start=300 + 50 * k)))
        with other.open() as store:
            other.snapshot(store, keep=2)
    assert other.snapshots() == [270, 360, 405]


def test_fork_of_a_version_that_learned_nothing_is_refused(tmp_path: Path) -> None:
    empty = made(tmp_path / "home")
    registry = Registry(tmp_path / "home")
    with pytest.raises(VersionError, match="learned nothing yet"):
        fork(registry, empty, "b", empty.spec, lambda half: None)
    assert registry.names() == ["mine"]


def test_fork_whose_checkpoint_fails_leaves_nothing(source: Version) -> None:
    registry = Registry(source.path.parent.parent)

    def fails(half: Path) -> None:
        raise StoreError("no space")

    with pytest.raises(StoreError, match="no space"):
        fork(registry, source, "b", source.spec, fails)
    assert [p.name for p in source.path.parent.iterdir()] == ["a"]


def test_what_a_killed_process_left_half_made_goes_with_the_next_version(source: Version) -> None:
    left = source.path.parent / ".b.99999999"
    left.mkdir()
    forked(source)
    assert not left.exists()


@pytest.mark.parametrize(
    "given",
    [{"learning_rate": "0.5", "temperature": "2"}, {"negatives": "7", "l2": "0.1"},
     {"evaluation_rate": 0.5, "admit_users": 2}],
)  # fmt: skip
def test_rows_carry_what_only_steps_and_draws_depend_on(tmp_path: Path, given: dict[str, Any]) -> None:
    source = Registry(tmp_path).create("a", new_spec("softmax", SMALL))
    spec = forked_spec(source, given)
    assert all(float({**spec.options, "evaluation_rate": spec.evaluation_rate,
                      "admit_users": spec.admit_users}[k]) == float(v) for k, v in given.items())  # fmt: skip


@pytest.mark.parametrize(
    ("learner", "given", "wrong"),
    [
        ("softmax", {"dimension": "8"}, "dimension was 4, is 8"),
        ("softmax", {"history": "9", "learning_rate": "0.5"}, "history was 5, is 9"),
        ("softmax", {"recent": "50"}, "recent was 100, is 50"),
        ("softmax", {"cosine": "true"}, "cosine was false, is true"),
        ("softmax", {"bias_half_life": "50"}, "bias_half_life was 3000, is 50"),
        ("softmax", {"seed": "3"}, "seed was 1, is 3"),
        ("softmax", {"users_live_s": "60"}, "users_live_s was 0, is 60"),
        ("popularity", {"half_life": "50"}, "half_life was 3000, is 50"),
        ("item_knn", {"neighbours": "4"}, "neighbours was 128, is 4"),
    ],
)
def test_fork_that_the_rows_cannot_carry_is_refused_with_the_way_that_works(
    tmp_path: Path, learner: str, given: dict[str, Any], wrong: str
) -> None:
    options = SMALL if learner == "softmax" else {}
    source = Registry(tmp_path).create("a", new_spec(learner, options))
    with pytest.raises(SettingError) as refused:
        forked_spec(source, given)
    assert f"cannot carry this: {wrong}. Make" in str(refused.value)
    assert f"versions create NAME --learner {learner} " in str(refused.value)
    assert all(f"--set {key}={value}" in str(refused.value) for key, value in given.items())


def test_unknown_setting_of_a_fork_is_refused_by_its_name(tmp_path: Path) -> None:
    source = Registry(tmp_path).create("a", new_spec("softmax", SMALL))
    with pytest.raises(SettingError, match='Did you mean "learning_rate"'):
        forked_spec(source, {"learning_rat": 1})


def test_difference_of_a_spec_to_itself_is_nothing() -> None:
    spec = new_spec("softmax", SMALL)
    assert difference_of(spec, spec) == ""
