from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from consumers.cli import main
from state.answers import answers_of
from state.learned import Learned
from state.spec import new_spec
from state.versions import Registry, Version
from tests.state.streams import batch, teach

ROOT = Path(__file__).parents[2]
USERS = ["[bold]ann[/bold]", "-x", "日本語:é", "bob", "eve"]
ITEMS = ["tea", "[red]cup", "--json", "пирог", "a:b", ":smile:"]
LIMITED = {"dimension": 4, "start": 1, "negatives": 5, "recent": 20, "history": 2, "context": 2}


def make(name: str, learner: str, options: dict[str, Any] | None = None) -> Version:
    """A version of 120 events in the default home of the working directory."""
    version = Registry(Path("freshet-home")).create(name, new_spec(learner, options or {}))
    with version.open() as store:
        events = batch([USERS[k % 5] for k in range(120)], [ITEMS[k * k % 6] for k in range(60)] + ITEMS * 10)
        teach(Learned(version.spec, store), events, commit=50)
    return version


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["query", *words]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    assert main(["query", *words]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


@pytest.mark.parametrize("user", USERS)
def test_json_forms_are_those_documented(bare: Path, capsys: pytest.CaptureFixture[str], user: str) -> None:
    make("mine", "softmax", LIMITED)
    found = asked(capsys, "recommend", "-k", "3", "--json", "--", user)
    assert list(found) == ["user", "version", "represented_by", "as_of", "items"]
    assert (found["user"], found["version"], found["represented_by"]) == (user, "mine", "row")
    assert found["as_of"] == "1970-01-12T13:48:39Z"
    assert [list(item) for item in found["items"]] == [["item", "score", "because"]] * 3
    for reason in (reason for item in found["items"] for reason in item["because"]):
        assert list(reason) == (["kind", "item", "part"] if reason["kind"] == "history" else ["kind", "part"])

    embedding = asked(capsys, "embedding", "user", "--json", "--", user)
    assert list(embedding) == ["kind", "id", "version", "dimension", "vector", "events", "last_seen"]
    assert (embedding["id"], embedding["dimension"], embedding["events"]) == (user, 4, 24)
    assert embedding["last_seen"].startswith("1970-01-12T13:48:3") and len(embedding["vector"]) == 4

    near = asked(capsys, "similar", "user", "--json", "--by", "euclidean", "--", user)
    assert list(near) == ["kind", "id", "version", "by", "as_of", "similar"]
    assert {one["id"] for one in near["similar"]} == set(USERS) - {user}
    assert [one["score"] for one in near["similar"]] == sorted(one["score"] for one in near["similar"])

    scores = asked(capsys, "score", "--json", "--", user, *ITEMS, "-never")
    assert list(scores) == ["user", "version", "represented_by", "as_of", "scores"]
    assert [one["item"] for one in scores["scores"]] == [*ITEMS, "-never"]
    assert scores["scores"][-1]["score"] is None and None not in [s["score"] for s in scores["scores"][:-1]]


def test_recent_items_are_recommended_only_where_asked_for(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("mine", "transitions", {"last": 3})
    without = {one["item"] for one in asked(capsys, "recommend", "bob", "--json")["items"]}
    every = {one["item"] for one in asked(capsys, "recommend", "bob", "--json", "--include-recent")["items"]}
    assert without < every == set(ITEMS)
    assert len(every - without) == 3


def test_human_forms_print_ids_as_they_are(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("mine", "transitions")
    lines = [["recommend", "--include-recent", "--", USERS[0]], ["score", "--", USERS[0], *ITEMS, "-never"]]
    for words in lines:
        assert main(["query", *words]) == 0
        text = capsys.readouterr().out
        assert all(item in text for item in ITEMS)
        assert f"{USERS[0]} · mine · by history, events up to 1970-01-12 13:48:39 UTC" in text
    assert "never seen" in text
    assert main(["query", "recommend", "bob"]) == 0
    assert re.search(r"because of \S+", capsys.readouterr().out)
    assert main(["query", "similar", "item", "--", "--json"]) == 0
    assert "[red]cup" in capsys.readouterr().out


def test_human_form_of_an_embedding_names_what_it_is(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("mine", "softmax", LIMITED)
    assert main(["query", "embedding", "item", "пирог"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("пирог", "dimension", "last seen", "1970-01-12"))


def test_user_never_seen_is_told_what_is_popular(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("mine", "popularity")
    found = asked(capsys, "recommend", "nobody", "--json")
    assert found["represented_by"] == "popularity" and len(found["items"]) == len(ITEMS)
    assert main(["query", "recommend", "nobody"]) == 0
    assert "by popularity" in capsys.readouterr().out


def test_version_is_needed_only_where_there_are_several(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "There is no version yet" in refused(capsys, 1, "recommend", "bob")
    make("one", "popularity")
    assert asked(capsys, "recommend", "bob", "--json")["version"] == "one"
    make("two", "popularity")
    assert "several versions: one, two." in refused(capsys, 2, "recommend", "bob")
    assert asked(capsys, "recommend", "bob", "--json", "--version", "two")["version"] == "two"
    assert 'Did you mean "two"?' in refused(capsys, 1, "recommend", "bob", "--version", "twoo")


def test_what_cannot_be_answered_says_why(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Registry(Path("freshet-home")).create("fresh", new_spec("popularity", {}))
    assert "Run `freshet work` first" in refused(capsys, 1, "recommend", "bob")
    version = ["--version", "pop"]
    make("pop", "popularity")
    assert "Learners that have: " in refused(capsys, 1, "embedding", "user", "bob", *version)
    make("soft", "softmax", LIMITED)
    message = refused(capsys, 1, "embedding", "item", "nothing", "--version", "soft")
    assert 'The item "nothing" was never seen by version "soft" up to 1970-01-12 13:48:39 UTC' in message
    make("next", "transitions")
    assert "keeps lists of neighbours" in refused(
        capsys, 2, "similar", "item", "tea", "--by", "dot", "--version", "next"
    )


def test_wrong_usage_ends_with_code_2(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["recommend", "bob", "-k", "0"],
        ["recommend", "bob", "-k", "10001"],
        ["similar", "item", "tea", "-k", "-1"],
        ["similar", "item", "tea", "--by", "hamming"],
        ["embedding", "thing", "tea"],
        ["score", "bob"],
        ["recommend"],
    ):
        assert refused(capsys, 2, *words).startswith("error: ")


def test_query_in_another_process_beside_the_worker_that_holds_the_store(bare: Path) -> None:
    version = make("mine", "popularity")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FRESHET_")}
    environment["PYTHONPATH"] = str(ROOT)
    with version.open() as store:
        learned = Learned(version.spec, store)
        teach(learned, batch([*["x"] * 120, "late"], [*["x"] * 120, "новое"], first=0), commit=1)
        code = "import sys; from consumers.cli import main; sys.exit(main(sys.argv[1:]))"
        words = ["query", "score", "late", "новое", "--json"]
        ended = subprocess.run(
            [sys.executable, "-c", code, *words], env=environment, text=True, capture_output=True, timeout=60
        )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["scores"][0]["score"] == pytest.approx(1.0, rel=0.1)
    with answers_of(version) as answers:
        assert answers.learned.ledger.number == 121
