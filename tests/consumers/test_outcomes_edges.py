"""What may go wrong with users, clocks and records: each case has its count, and its sentence in `status`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from consumers.eventlog.segments import EVENTS, Segments
from consumers.exposing import EXPOSURES
from state.experiments import Experiments
from state.releases import Releases
from streaming.joining import SECOND
from streaming.routing import divided
from tests.consumers.commandline import Freshet
from tests.consumers.served import taught
from tests.consumers.test_outcomes import LATE, arm_of, create, event, exposure

ARMS = ("one", "two")


@pytest.fixture
def freshet(bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Freshet:
    monkeypatch.setattr("consumers.commands.experiment.new_salt", lambda: "5a17")
    home = bare / "home"
    for name in ARMS:
        taught(home, name)
    Releases(home).promote("one")
    return Freshet(home, capsys)


def joined(freshet: Freshet, since: int, shown: list[bytes], happened: list[bytes]) -> dict[str, Any]:
    """What status says after these records, and one of each log that comes after all windows."""
    Segments(freshet.home / EXPOSURES).append([*shown, exposure("last", "one", since + LATE)])
    Segments(freshet.home / EVENTS).append([*happened, event("last", since + LATE, type="view")])
    freshet("outcomes", "--until-end")
    found: dict[str, Any] = freshet.json("experiment", "status")
    return found


def test_records_that_are_late_repeated_or_in_the_wrong_order_are_counted_and_explained(
    freshet: Freshet,
) -> None:
    since = create(freshet)  # windows of a minute, a second of lateness
    at = since + 10 * SECOND
    shown = [
        exposure("ann", "one", at),
        exposure("bob", "one", at),
        exposure("cid", "two", at),
        exposure("cid", "two", at),  # again
        exposure("eve", "one", at - SECOND - 1),  # late
        exposure("fay", "three", at),  # no arm
        exposure("dan", "one", at + SECOND),
        msgspec.json.encode({**msgspec.json.decode(exposure("dan", "two", at + 2 * SECOND)), "id": "other"}),
        b"no list",
        exposure("ann", "one", at + 100 * SECOND),  # after the window
    ]
    happened = [
        event("bob", at - 2 * SECOND - 1),  # before the list by more than clocks may differ
        event("ann", at - 2 * SECOND),  # before it by no more
        event("cid", at),
        event("cid", at),  # again
        event("cid", at, value=0.0),
        event("nobody", at),
        event("ann", at + 61 * SECOND),  # after the window
        event("cid", at + 59 * SECOND),  # late
        event("cid", at + 61 * SECOND, item="cup"),
    ]
    found = joined(freshet, since, shown, happened)
    assert {key: count for key, count in found["records"].items() if count} == {
        "exposures": 5, "repeated_exposures": 1, "later_exposures": 1, "late_exposures": 1,
        "other_exposures": 1, "joined": 3, "repeated": 1, "unexposed": 2, "after_window": 2, "late": 1,
        "users": 3, "two_arms": 1, "bad": 1,
    }  # fmt: skip
    assert sum(arm["users_with_outcome"] for arm in found["arms"].values()) == 2
    notes = " / ".join(found["notes"])
    for words in (
        "1 users were seen in two arms", "1 lists were of a version that is no arm",
        "1 lists came more than 1 s behind", "1 events came more than 1 s behind",
        "1 lists came again", "1 events came again", "2 events had no list", "clocks 2 s apart",
        "2 events came after", "1 lists were served to users whose windows had ended", "1 lines are neither",
    ):  # fmt: skip
        assert words in notes
    assert len(found["notes"]) == 10


def test_users_whom_a_change_of_shares_moved_are_left_out_whether_seen_again_or_not(freshet: Freshet) -> None:
    since, home = create(freshet), freshet.home
    before = Experiments(home).get("exp").phases[0].ranges
    shares = {"one": 0.4, "two": 0.6}
    Experiments(home).begin_phase("exp", since + 30 * SECOND, shares, divided(shares, before))
    users = [f"u{k}" for k in range(200)]
    trial = Experiments(home).get("exp")
    moved = [user for user in users if trial.moved(user, since, since + 60 * SECOND)]
    assert 5 < len(moved) < 50
    shown = [exposure(user, arm_of(home, user), since + k) for k, user in enumerate(users)]
    found = joined(freshet, since, shown, [event(moved[0], since + SECOND)])
    assert (found["records"]["moved"], found["records"]["users"]) == (len(moved), 200 - len(moved))
    assert found["arms"]["one"]["left_out"] == len(moved)
    assert found["sample_ratio"]["fits"]  # they are counted there
    assert any(f"{len(moved)} users were sent to another arm by a change" in note for note in found["notes"])


def test_arm_of_share_0_without_users_and_without_outcomes_is_explained(freshet: Freshet) -> None:
    since, home = create(freshet), freshet.home
    assert (
        "no user of two has entered" in freshet.json("experiment", "status")["challengers"]["two"]["reason"]
    )
    shares = {"one": 1.0, "two": 0.0}
    Experiments(home).begin_phase("exp", since + SECOND, shares, divided({"one": 1.0}))
    users = [f"u{k}" for k in range(20)]
    shown = [exposure(user, "one", since + (2 + k) * SECOND // 2 + SECOND) for k, user in enumerate(users)]
    shown.append(exposure("stray", "two", since + 12 * SECOND))
    found = joined(freshet, since, shown, [])
    assert (found["users"], found["strays"]) == (20, 1)
    assert found["challengers"]["two"]["reason"] == "two has share 0: no user is sent to it"
    assert (found["challengers"]["two"]["lift"], found["arms"]["two"]["mean"]) == (None, None)
    assert (found["arms"]["one"]["mean"], found["arms"]["one"]["users_with_outcome"]) == (0.0, 0)
    assert any("1 users were served by an arm whose share is 0" in note for note in found["notes"])


def test_status_says_what_windows_wait_for(freshet: Freshet) -> None:
    since = create(freshet)
    Segments(freshet.home / EXPOSURES).append([exposure("ann", "one", since + 1)])
    freshet("outcomes", "--until-end")
    found = freshet.json("experiment", "status")
    assert (found["joined_until_us"], found["waits_for"]) == (None, EVENTS)
    assert found["notes"] == ["no window can close before events has a record, or is known to have none"]
