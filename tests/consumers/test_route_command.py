"""`freshet route`: shares, overrides and the hold-out are set, shown and asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from state.versions import Registry
from streaming.routing import bucket_of
from tests.consumers.commandline import Freshet
from tests.consumers.worked import append, learn, lines, made


@pytest.fixture
def freshet(bare: Path, capsys: pytest.CaptureFixture[str]) -> Freshet:
    made_in = Freshet(bare / "home", capsys)
    for name in ("champion", "challenger", "third"):
        made(made_in.home, name=name)
    return made_in


def of(freshet: Freshet, user: str) -> tuple[str, str]:
    told = freshet.json("route", "of", user)
    return told["version"], told["by"]


def test_shares_divide_users_and_a_ramp_moves_them_one_way(freshet: Freshet) -> None:
    freshet("route", "set", "champion=0.9", "challenger=0.1", "--salt", "summer")
    users = [f"u{k}" for k in range(60)]
    before = {user: of(freshet, user) for user in users}
    for user, (version, by) in before.items():
        assert by == "share" and (version == "champion") == (bucket_of("summer", user) < 9000)
    shown = freshet.json("route", "set", "champion=50%", "challenger=50%")
    assert shown["salt"] == "summer" and [arm["share"] for arm in shown["arms"]] == [0.5, 0.5]
    for user, (version, _) in before.items():
        assert version == "champion" or of(freshet, user)[0] == "challenger"
    assert freshet.json("route", "show") == shown
    assert "50.00%" in freshet("route", "show")
    told = freshet.json("query", "route", "ann")
    assert told == freshet.json("route", "of", "ann") and told["bucket"] == 8259


def test_promoted_version_gets_the_rest(freshet: Freshet) -> None:
    assert "add up to 1" in freshet("route", "set", "challenger=0.1", code=2)
    freshet("versions", "promote", "champion", "--force", "test")
    shown = freshet.json("route", "set", "challenger=0.1", "third=0.2")
    assert {arm["version"]: arm["share"] for arm in shown["arms"]} == pytest.approx(
        {"champion": 0.7, "challenger": 0.1, "third": 0.2}
    )


def test_override_and_hold_out_come_before_shares(freshet: Freshet) -> None:
    freshet("versions", "promote", "champion", "--force", "test")
    freshet("route", "set", "challenger=1", "--holdout", "0.5")
    held = next(f"u{k}" for k in range(99) if bucket_of("holdout", f"u{k}") < 5000)
    assert of(freshet, held) == ("champion", "holdout")
    freshet("route", "set", "challenger=1", "--holdout-version", "third")
    assert of(freshet, held) == ("third", "holdout")
    freshet("route", "override", held, "challenger")
    assert of(freshet, held) == ("challenger", "override")
    assert held in freshet("route", "show") and "hold-out" in freshet("route", "show")
    freshet("route", "override", held, "--remove")
    assert of(freshet, held) == ("third", "holdout")
    assert "has no override" in freshet("route", "override", held, "--remove", code=1)
    assert "all users get champion" in freshet("route", "clear", "--why", "done")
    assert of(freshet, held) == ("champion", "champion")
    assert [e["what"] for e in freshet.json("versions", "log")] == ["promote", *["route"] * 5]


def test_new_experiment_divides_the_users_anew(freshet: Freshet) -> None:
    first = freshet.json("route", "set", "champion=0.5", "challenger=0.5")["salt"]
    assert freshet.json("route", "set", "champion=0.4", "challenger=0.6")["salt"] == first
    freshet("route", "clear")
    assert freshet.json("route", "set", "champion=0.5", "challenger=0.5")["salt"] != first


def test_nobody_serves_before_a_promotion_or_a_route(freshet: Freshet) -> None:
    assert "No version is promoted" in freshet("route", "of", "ann", code=1)
    freshet("route", "override", "ann", "third")
    assert of(freshet, "ann") == ("third", "override")
    assert "No version is promoted" in freshet("route", "of", "bob", code=1)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["set"], 2, "needs shares"),
        (["set", "champion"], 2, 'got "champion"'),
        (["set", "champion=much"], 2, 'got "champion=much"'),
        (["set", "champion=0.5", "champion=0.5"], 2, "each version once"),
        (["set", "champion=0.5", "nobody=0.5"], 1, 'no version "nobody"'),
        (["set", "champion=1", "--holdout", "2"], 2, "between 0 and 1"),
        (["override", "ann"], 2, "needs a version, or --remove"),
        (["override", "ann", "nobody"], 1, 'no version "nobody"'),
    ],
)  # fmt: skip
def test_route_that_cannot_be_changes_nothing(
    freshet: Freshet, words: list[str], code: int, message: str
) -> None:
    assert message in freshet("route", *words, code=code)
    assert freshet.json("versions", "log") == []


def test_query_asks_the_version_that_the_user_gets(freshet: Freshet, tmp_path: Path) -> None:
    path = append(tmp_path / "a.jsonl", lines(50, seed=1))
    for name in ("champion", "third"):
        learn(Registry(freshet.home).get(name), path)
    assert "Name one with --version, or promote one" in freshet("query", "recommend", "u1", code=2)
    freshet("versions", "promote", "champion")
    assert freshet.json("query", "recommend", "u1")["version"] == "champion"
    freshet("route", "override", "u1", "third")
    assert freshet.json("query", "recommend", "u1")["version"] == "third"
    assert freshet.json("query", "score", "u2", "i1")["version"] == "champion"
    assert freshet.json("query", "recommend", "u1", "--version", "champion")["version"] == "champion"
