from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from state import similar
from state.answer_forms import Kind
from state.answers import Answers, answers_of, learners_with_vectors, recommend
from state.learned import Learned
from state.memory import MemoryStore
from state.ranking import Measure, top
from state.reasons import Reason, in_words
from state.spec import new_spec
from state.versions import Registry, Version
from streaming import learners
from streaming.errors import StoreError, UnknownIdError, UsageError, VersionError
from streaming.learners.decay import half_life_scale
from tests.state.streams import batch, everything, lively, teach

EVENTS = 2000
D = 8
SMALL: dict[str, dict[str, Any]] = {
    "softmax": {"dimension": D, "history": 6, "context": 4, "recent": 100, "negatives": 10},
    "popularity": {"half_life": "inf"},
}
ODD = ["a[b]:c", "[bold]x[/bold]", ":smile:", "日本語 ключ", "-x", "--json", "\u00e9", "e\u0301"]


def small(learner: str, **more: Any) -> dict[str, Any]:
    """Options that keep a learner small, where there are such."""
    names = learners.load(learner).options()._fields
    given = {"dimension": D} if "dimension" in names else {}
    return {**given, **SMALL.get(learner, {}), **more}


def learned_version(home: Path, learner: str, **more: Any) -> Version:
    version = Registry(home).create(learner, new_spec(learner, small(learner, **more)))
    with version.open() as store:
        teach(Learned(version.spec, store), lively(EVENTS), commit=500)
    return version


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module", params=learners.names())
def any_version(request: pytest.FixtureRequest, home: Path) -> Version:
    return learned_version(home / "any", request.param)


@pytest.fixture(scope="module")
def softmax(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    with answers_of(learned_version(tmp_path_factory.mktemp("softmax"), "softmax")) as answers:
        yield answers


def past_of(learned: Learned, user: str) -> set[str]:
    """Items of positive weight among the user's last events, read from the stream."""
    events = lively(EVENTS)
    items = [events.items[k] for k in range(EVENTS) if events.users[k] == user and events.weights[k] > 0]
    return set(items[-learned.layout.history :])


def stored(answers: Answers, prefix: bytes) -> tuple[list[str], NDArray[np.float32]]:
    """Ids and fields of rows, by the documented bytes alone."""
    names, rows = [], []
    for key, value in answers.learned.store.scan(prefix):
        width = int(np.frombuffer(value, np.uint32)[2])
        names.append(key[1:].decode())
        rows.append(np.frombuffer(value, np.float32)[12 : 12 + width])
    return names, np.array(rows)


def test_recommendations_are_the_highest_scores_without_recent_items(any_version: Version) -> None:
    with answers_of(any_version) as answers:
        items = stored(answers, b"i")[0]
        found = answers.recommend("user-0", 5)
        scores = {one.item: one.score for one in answers.score("user-0", items).scores}
        allowed = sorted(
            (s for i, s in scores.items() if i not in past_of(answers.learned, "user-0")), reverse=True
        )
        assert [one.score for one in found.items] == allowed[:5]
        assert all(scores[one.item] == one.score for one in found.items)
        everything_ = answers.recommend("user-0", 10_000, include_recent=True)
        assert {one.item for one in everything_.items} == set(items)
        assert (
            everything_.as_of is not None
            and everything_.as_of.timestamp() == lively(EVENTS).ts.max() // 10**6
        )


def test_user_never_seen_is_answered_by_popularity_and_makes_no_row(any_version: Version) -> None:
    with answers_of(any_version) as answers:
        found = answers.recommend("nobody", 3)
        assert (found.represented_by, len(found.items)) == ("popularity", 3)
        assert answers.recommend("nobody else", 3).items == found.items
        assert answers.learned.users.held == 0
        assert all(reason.kind == "popularity" for one in found.items for reason in one.because)


def test_ids_without_rows_are_errors_that_say_so(any_version: Version) -> None:
    with answers_of(any_version) as answers:
        kinds: list[Kind] = ["user", "item"]
        for kind in kinds:
            with pytest.raises((UnknownIdError, VersionError), match=r"never seen by version|has no vectors"):
                answers.embedding(kind, "nobody")
            with pytest.raises((UnknownIdError, VersionError), match=r"never seen by version|has no vectors"):
                answers.similar(kind, "nobody")
        assert answers.score("user-0", ["nobody"]).scores[0].score is None


def test_answers_of_a_live_version_equal_those_of_its_store(any_version: Version) -> None:
    with answers_of(any_version) as answers:
        live = teach(Learned(any_version.spec, MemoryStore(), user_cache=20), lively(EVENTS), commit=10)
        for user in ("user-0", "user-7", "user-44", "nobody"):
            from_store = [(i.item, i.score, i.because) for i in answers.recommend(user, 5).items]
            assert recommend(live, user, 5) == from_store


def test_asking_changes_nothing_that_is_learned(any_version: Version) -> None:
    asked, quiet = (Learned(any_version.spec, MemoryStore()) for _ in range(2))
    for end in range(200, 1001, 200):
        teach(asked, lively(EVENTS).part(0, end), commit=200)
        recommend(asked, "user-0", 5)
        recommend(asked, f"nobody {end}", 5)
        teach(quiet, lively(EVENTS).part(0, end), commit=200)
    assert everything(asked.store) == everything(quiet.store)


def test_store_without_events_recommends_nothing(tmp_path: Path) -> None:
    for learner in ("popularity", "softmax"):
        version = Registry(tmp_path).create(learner, new_spec(learner, small(learner)))
        with pytest.raises(StoreError, match="no store here yet"), answers_of(version):
            pass
        version.open().close()
        with answers_of(version) as answers:
            found = answers.recommend("u", 3)
            assert (found.items, found.as_of, found.represented_by) == ([], None, "popularity")
            assert answers.score("u", ["i"]).scores[0].score is None


def test_answers_see_each_commit_of_a_worker_that_holds_the_store(tmp_path: Path) -> None:
    version = Registry(tmp_path).create("v", new_spec("popularity", small("popularity")))
    with version.open() as store:
        learned = Learned(version.spec, store)
        for end in (100, 900, EVENTS):
            teach(learned, lively(EVENTS).part(0, end), commit=50)
            with answers_of(version) as answers:
                assert answers.learned.ledger.number == end
                assert recommend(learned, "user-0", 9) == recommend(answers.learned, "user-0", 9)


# -- embeddings ---------------------------------------------------------------------------------


def test_embedding_of_an_item_is_what_its_row_holds(softmax: Answers) -> None:
    names, rows = stored(softmax, b"i")
    found = softmax.embedding("item", names[3])
    assert (found.dimension, found.vector) == (D, rows[3, :D].tolist())
    events = lively(EVENTS)
    mine = [k for k in range(EVENTS) if events.items[k] == names[3] and events.weights[k] != 0.0]
    assert found.events >= len(mine) > 0
    assert (
        found.last_seen.timestamp()
        == max(events.ts[k] for k in range(EVENTS) if events.items[k] == names[3]) // 10**6
    )


def test_embedding_of_a_user_ranks_items_as_the_recommendations_do(softmax: Answers) -> None:
    names, rows = stored(softmax, b"i")
    vector = np.array(softmax.embedding("user", "user-0").vector, np.float32)
    past = past_of(softmax.learned, "user-0")
    learned = softmax.learned
    bias = rows[:, D] * half_life_scale(learned.ledger.number, learned.options.bias_half_life)
    ranked = [names[k] for k in np.argsort(-(rows[:, :D] @ vector + bias)) if names[k] not in past]
    assert [one.item for one in softmax.recommend("user-0", 20).items] == ranked[:20]


def test_user_never_seen_gets_items_by_bias(softmax: Answers) -> None:
    names, rows = stored(softmax, b"i")
    by_bias = [names[k] for k in np.argsort(-rows[:, D])]
    assert [one.item for one in softmax.recommend("nobody", 9).items] == by_bias[:9]


def test_learner_without_vectors_names_those_that_have(home: Path) -> None:
    with answers_of(learned_version(home / "bare", "popularity")) as answers:
        for kind in ("item", "user"):
            with pytest.raises(VersionError, match=rf'"popularity".*no vectors of {kind}s.*softmax'):
                answers.embedding(kind, "user-0")
    assert {"popularity", "transitions", "item_knn"}.isdisjoint(learners_with_vectors())


# -- similar ------------------------------------------------------------------------------------


def reference(vectors: NDArray[Any], one: NDArray[Any], by: str) -> NDArray[np.float64]:
    vectors, one = vectors.astype(np.float64), one.astype(np.float64)
    if by == "dot":
        return vectors @ one
    if by == "cosine":
        return vectors @ one / np.linalg.norm(vectors, axis=1) / np.linalg.norm(one)
    return np.linalg.norm(vectors - one, axis=1)


@pytest.mark.parametrize("by", ["dot", "cosine", "euclidean"])
@pytest.mark.parametrize("kind", ["item", "user"])
def test_similar_ids_equal_numpy_whatever_the_block(
    softmax: Answers, monkeypatch: pytest.MonkeyPatch, kind: Kind, by: Measure
) -> None:
    names = stored(softmax, b"i" if kind == "item" else b"u")[0]
    vectors = np.array([softmax.embedding(kind, name).vector for name in names])
    expected = reference(vectors, vectors[5], by)
    order = [k for k in np.argsort(expected if by == "euclidean" else -expected) if k != 5][:12]
    for block in (7, 8192):
        monkeypatch.setattr(similar, "_BLOCK", block)
        found = softmax.similar(kind, names[5], 12, by)
        assert [one.id for one in found.similar] == [names[k] for k in order]
        np.testing.assert_allclose([one.score for one in found.similar], expected[order], rtol=1e-4)


def test_nearest_are_all_the_others_where_fewer_than_asked(softmax: Answers) -> None:
    names = stored(softmax, b"u")[0]
    found = softmax.similar("user", names[0], 10_000)
    assert sorted(one.id for one in found.similar) == sorted(names[1:])
    assert found.by == "cosine"


@pytest.mark.parametrize("learner", ["transitions", "item_knn"])
def test_similar_items_of_a_learner_with_lists_are_its_neighbours(tmp_path: Path, learner: str) -> None:
    users = [f"u{k // 3}" for k in range(300)]
    items = ["tea", "cup", "pot"] * 80 + ["tea", "pen", "ink"] * 20
    live = teach(Learned(new_spec(learner, {}), MemoryStore()), batch(users, items), commit=300)
    found = Answers("v", live).similar("item", "tea", 4)
    assert (found.by, [one.id for one in found.similar][:2]) == ("neighbours", ["cup", "pot"])
    assert {one.id for one in found.similar} == {"cup", "pot", "pen", "ink"}
    assert Answers("v", live).similar("item", "tea", 1).similar == found.similar[:1]
    with pytest.raises(UsageError, match="keeps lists of neighbours"):
        Answers("v", live).similar("item", "tea", 4, "dot")


# -- reasons ------------------------------------------------------------------------------------


def test_reasons_name_the_item_of_the_history_that_counts(tmp_path: Path) -> None:
    users = [f"u{k // 2}" for k in range(400)] + ["new"]
    items = ["tea", "cup", "pen", "ink"] * 100 + ["pen"]
    live = teach(Learned(new_spec("transitions", {}), MemoryStore()), batch(users, items), commit=500)
    (item, _, reasons), *_ = recommend(live, "new", 3)
    assert (item, [(r.kind, r.item) for r in reasons]) == ("ink", [("history", "pen")])
    assert in_words(reasons) == "because of pen"
    assert Answers("v", live).recommend("new", 3).represented_by == "history"


def test_reason_of_an_item_had_before_and_popular() -> None:
    live = teach(
        Learned(new_spec("popularity", SMALL["popularity"]), MemoryStore()),
        batch(["a", "b", "c", "a"], ["x", "x", "x", "y"]),
        commit=9,
    )
    assert recommend(live, "nobody", 2) == [
        ("x", 3.0, [Reason(kind="popularity", part=1.0)]),  # against the average of 2
        ("y", 1.0, []),
    ]


def test_parts_of_reasons_add_up_to_the_score_beyond_the_average(softmax: Answers) -> None:
    names = stored(softmax, b"i")[0]
    mean = np.mean([one.score for one in softmax.score("user-0", names).scores if one.score is not None])
    guest = softmax._guest
    slots = np.arange(len(names), dtype=np.int32)
    parts = guest.parts(slots) - guest.parts(slots).mean(axis=0)
    order = [softmax._item(slot) for slot in slots.tolist()]
    scores = [one.score for one in softmax.score("user-0", order).scores]
    np.testing.assert_allclose(parts.sum(axis=1) + mean, np.array(scores, np.float64), atol=1e-4)


# -- edges --------------------------------------------------------------------------------------


def test_odd_ids_are_found_as_they_are(tmp_path: Path) -> None:
    version = Registry(tmp_path).create("v", new_spec("softmax", small("softmax", start=1)))
    with version.open() as store:
        teach(Learned(version.spec, store), batch(ODD * 5, ODD * 5), commit=7)
    with answers_of(version) as answers:
        for name in ODD:
            assert answers.embedding("user", name).id == name
            assert answers.embedding("item", name).events == 5
            assert name not in {one.item for one in answers.recommend(name, 99).items}
        assert {one.id for one in answers.similar("item", ODD[0]).similar} == set(ODD[1:])


def test_expired_user_counts_as_never_seen(tmp_path: Path) -> None:
    events = batch(["old"] + ["u"] * 20_000, ["i"] * 20_001, seconds=[0, *range(100_000, 120_000)])
    version = Registry(tmp_path).create("v", new_spec("transitions", {"users_live_s": 1600}))
    with version.open() as store:
        live = Learned(version.spec, store)
        for end in (3, len(events)):
            teach(live, events.part(0, end), commit=30_000)
        assert Answers("v", live).recommend("old").represented_by == "popularity"
    with answers_of(version) as answers:
        assert answers.recommend("old").represented_by == "popularity"
        assert answers.recommend("u").represented_by == "history"


@pytest.mark.parametrize("k", [0, -1, 10_001])
def test_number_of_answers_out_of_bounds_is_refused(softmax: Answers, k: int) -> None:
    with pytest.raises(UsageError, match=f"between 1 and 10000, got {k}"):
        softmax.recommend("user-0", k)
    with pytest.raises(UsageError, match="between 1 and 10000"):
        softmax.similar("item", "0", k)


@pytest.mark.parametrize("name", ["", "\udcff"])
def test_text_that_cannot_be_an_id_is_refused(softmax: Answers, name: str) -> None:
    for ask in (softmax.recommend, lambda i: softmax.embedding("item", i), lambda i: softmax.score("u", [i])):
        with pytest.raises(UsageError, match="An id must"):
            ask(name)


def test_equal_scores_are_ordered_by_events_then_by_age() -> None:
    scores = np.array([1, 2, 2, np.nan, 2, -np.inf], np.float32)
    assert top(scores, 4, np.array([9, 1, 3, 9, 3, 9], np.uint32)).tolist() == [2, 4, 1, 0]
