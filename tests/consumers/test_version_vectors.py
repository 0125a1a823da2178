"""`freshet versions export` and `create --from-vectors`: vectors go out and come in as parquet."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from state.answers import answers_of
from state.versions import Registry, Version
from tests.consumers.commandline import Freshet
from tests.consumers.worked import append, learn, lines, made

SMALL = {"dimension": 4, "negatives": 3, "recent": 100, "history": 5, "context": 2, "start": 2}
SETS = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture
def freshet(bare: Path, capsys: pytest.CaptureFixture[str]) -> Freshet:
    return Freshet(bare / "home", capsys)


@pytest.fixture
def taught(freshet: Freshet, tmp_path: Path) -> Version:
    version = made(freshet.home, "softmax", "a", **SMALL)
    learn(version, append(tmp_path / "a.jsonl", lines(300, seed=1)))
    return version


def written(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_exported_vectors_rank_as_the_version_does(freshet: Freshet, taught: Version, tmp_path: Path) -> None:
    items, users = tmp_path / "items.parquet", tmp_path / "users.parquet"
    told = freshet.json("versions", "export", "a", "--to", str(items))
    assert (told["rows"], told["kind"]) == (pq.read_metadata(items).num_rows, "item")
    assert "vectors of" in freshet("versions", "export", "a", "--to", str(users), "--kind", "user")
    item, user = pq.read_table(items), pq.read_table(users)
    assert item.column_names == ["id", "vector", "bias", "events", "last_seen"]
    assert user.column_names == ["id", "vector", "events", "last_seen"]
    vectors = np.stack(item["vector"].to_numpy())
    with answers_of(taught) as answers:
        for name, vector in zip(user["id"].to_pylist()[:5], user["vector"].to_pylist(), strict=False):
            assert answers.embedding("user", name).vector == pytest.approx(vector, abs=1e-6)
            mine = dict(
                zip(item["id"].to_pylist(), vectors @ np.array(vector) + item["bias"].to_numpy(), strict=True)
            )
            # The score of an item in the history has a repeat term on top.
            fresh = answers.recommend(name, 5).items
            assert [mine[a.item] - mine[b.item] for a, b in itertools.pairwise(fresh)] == pytest.approx(
                [a.score - b.score for a, b in itertools.pairwise(fresh)], abs=1e-4
            )
        shown = answers.embedding("item", item["id"][0].as_py())
    assert shown.events == item["events"][0].as_py() and shown.last_seen == item["last_seen"][0].as_py()


def test_version_begins_with_the_vectors_that_another_one_exported(
    freshet: Freshet, taught: Version, tmp_path: Path
) -> None:
    items, again = tmp_path / "items.parquet", tmp_path / "again.parquet"
    freshet("versions", "export", "a", "--to", str(items))
    told = freshet(
        "versions", "create", "b", *SETS, "--set", "learning_rate=0.2", "--from-vectors", str(items)
    )
    assert f"begins with {pq.read_metadata(items).num_rows} items" in told
    freshet("versions", "verify", "b")
    shown = freshet.json("versions", "show", "b")
    assert (shown["state"], shown["rows"]["users"], shown["snapshots"]) == ("new", 0, [0])
    assert shown["lineage"][0]["kind"] == "vectors"
    freshet("versions", "export", "b", "--to", str(again))
    one, two = pq.read_table(items), pq.read_table(again)
    assert two.select(["id", "vector", "bias"]) == one.select(["id", "vector", "bias"])
    assert set(two["events"].to_pylist()) == {0} and two["last_seen"].null_count == len(two)
    learn(Registry(freshet.home).get("b"), append(tmp_path / "b.jsonl", lines(100, seed=3)))
    freshet("versions", "verify", "b")
    assert freshet.json("versions", "rebuild", "b")["equal"]


def test_wide_numbers_and_lists_of_fixed_length_are_taken(freshet: Freshet, tmp_path: Path) -> None:
    values = pa.array(np.arange(8, dtype=np.float64))
    path = written(tmp_path / "v.parquet", id=["x", "ÿ"], vector=pa.FixedSizeListArray.from_arrays(values, 4))
    freshet("versions", "create", "b", *SETS, "--from-vectors", str(path))
    told = freshet.json("query", "embedding", "item", "ÿ", "--version", "b")
    assert told["vector"] == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": ["x"]}, "no column vector"),
        (
            {"id": ["x"], "vector": [[1.0, 2.0]]},
            "must have 4 numbers, as the version's dimension says, got 2",
        ),
        ({"id": ["x"], "vector": [[1.0, 2.0, None, 4.0]]}, "must have 4 numbers"),
        ({"id": ["x"], "vector": ["1234"]}, "lists of numbers"),
        ({"id": ["x"], "vector": [["1", "b", "3", "4"]]}, "lists of numbers"),
        ({"id": ["x", "x"], "vector": [[1.0] * 4] * 2}, "each once"),
        ({"id": [""], "vector": [[1.0] * 4]}, "not empty"),
        ({"id": ["x", None], "vector": [[1.0] * 4] * 2}, "must be there"),
        ({"id": ["x"], "vector": [[1.0, 2.0, 3.0, float("inf")]]}, "finite"),
    ],
)
def test_file_that_holds_no_such_vectors_makes_no_version(
    freshet: Freshet, tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    path = written(tmp_path / "v.parquet", **columns)
    assert message in freshet("versions", "create", "b", *SETS, "--from-vectors", str(path), code=1)
    assert Registry(freshet.home).names() == []


def test_what_has_no_vectors_neither_gives_nor_takes_any(freshet: Freshet, tmp_path: Path) -> None:
    path = written(tmp_path / "v.parquet", id=["x"], vector=[[1.0] * 4])
    plain = ("--learner", "popularity", "--from-vectors", str(path))
    assert "no item vectors" in freshet("versions", "create", "b", *plain, code=2)
    expires = ("--set", "items_live_s=60", "--from-vectors", str(path))
    assert "expire at once" in freshet("versions", "create", "b", *SETS, *expires, code=2)
    missing = ("--from-vectors", str(tmp_path / "none.parquet"))
    assert "cannot be read" in freshet("versions", "create", "b", *SETS, *missing, code=1)
    made(freshet.home, name="c")
    to = str(tmp_path / "out.parquet")
    assert "no store here yet" in freshet("versions", "export", "c", "--to", to, code=1)
    learn(Registry(freshet.home).get("c"), append(tmp_path / "a.jsonl", lines(20, seed=1)))
    assert "has no vectors of items" in freshet("versions", "export", "c", "--to", to, code=1)
    assert "has no vectors of users" in freshet(
        "versions", "export", "c", "--to", to, "--kind", "user", code=1
    )
    assert ".parquet" in freshet("versions", "export", "c", "--to", "x.csv", code=2)
    assert not list(tmp_path.glob("*out*"))
