"""What page, terminal, Prometheus and store show of one run, and what a recount of its input file gives."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from state.spec import new_spec
from state.versions import Registry
from streaming.evaluation import NEW_ITEM_EVENTS
from tests.consumers.commandline import Freshet
from tests.consumers.test_server_process import freshet, server
from tests.monitoring import Shown, jobs_of, prometheus, until

QUICK = ("--set", "worker.metrics_port=0", "--set", "worker.commit_interval_min=10ms")
BAD = ["no json", '{"user": 7.5, "item": "i", "ts": 1700000000}', '{"user": "u", "ts": 1700000000}']


def records(first: int, count: int) -> list[str]:
    """Lines of a file: most of them events of a few users and of ever more items, some of them bad."""
    lines = []
    for k in range(first, first + count):
        event = {"user": f"u{k * k % 17}", "item": f"i{k * k % 13 + k // 20}", "ts": 1_700_000_000 + k}
        lines.append(BAD[k // 25 % 3] if k % 25 == 11 else json.dumps(event))
    return lines


def recount(lines: list[str]) -> dict[str, Any]:
    """All figures from the lines alone: popularity that forgets nothing, each event ranked, then counted."""
    counts: Counter[str] = Counter()
    users: set[str] = set()
    bad, newest = 0, 0
    segments = {name: [0, 0] for name in ("overall", "new_user", "returning_user", "new_item")}
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            record = {}
        if not all(isinstance(record.get(name), str) for name in ("user", "item")):
            bad += 1
            continue
        user, item = record["user"], record["item"]
        here = counts[item]
        above = sum(count > here for count in counts.values())
        equal = sum(count == here for other, count in counts.items() if other != item)
        hit = here > 0 and above + equal / 2 < 10  # ties count half
        belongs = ["overall", "returning_user" if user in users else "new_user"]
        for name in belongs + ["new_item"] * (here < NEW_ITEM_EVENTS):
            segments[name][0] += hit
            segments[name][1] += 1
        counts[item] += 1
        users.add(user)
        newest = max(newest, record["ts"])
    return {
        "events": counts.total(),
        "bad": bad,
        "users": len(users),
        "items": len(counts),
        "newest": newest,
        "segments": segments,
        "records": len(lines),
    }


class Run:
    """A worker that follows a file, a server and a Prometheus beside it."""

    def __init__(self, home: Path, file: Path, shown: Shown, command: Freshet) -> None:
        self.home, self.file, self.shown, self.command = home, file, shown, command

    def everywhere(self) -> dict[str, dict[str, Any]]:
        """The figures by where they are shown, under the names of `recount`."""
        return {"page": self._page(), "prometheus": self._prometheus(), "terminal": self._terminal()}

    def _page(self) -> dict[str, Any]:
        card = self.shown.on_page("mine")
        segments = (card.get("curve") or {}).get("segments")
        return {"events": card.get("events"), "bad": card.get("dead_letters"), "items": card.get("items"),
                "segments": segments, "lag": card.get("lag"), "state": card.get("state")}  # fmt: skip

    def _prometheus(self) -> dict[str, Any]:
        value = self.shown.value
        return {
            "events": value("freshet_version_events"),
            "bad": value("freshet_version_bad_records"),
            "items": value('freshet_rows{kind="item"}'),
            "newest": value("freshet_watermark_timestamp_seconds"),
            "lag": value("version:freshet_lag:sum"),
            "rate": value('freshet_prequential_hit_ratio{segment="overall",window="all",k="10"}'),
        }

    def _terminal(self) -> dict[str, Any]:
        row = self.shown.in_terminal("work-mine")
        return {"events": row.get("events"), "bad": row.get("dead_letters"), "lag": row.get("lag"),
                "rate": row.get("hit_rate_at_10"), "state": row.get("state")}  # fmt: skip

    def wanted(self) -> dict[str, dict[str, Any]]:
        """What a recount of the file says that they must be."""
        found = recount(self.file.read_text().splitlines())
        hits, evaluated = found["segments"]["overall"]
        found |= {"rate": hits / evaluated, "lag": 0, "state": "well"}
        return {
            "page": {key: found[key] for key in ("events", "bad", "items", "segments", "lag", "state")},
            "prometheus": {key: found[key] for key in ("events", "bad", "items", "newest", "lag", "rate")},
            "terminal": {key: found[key] for key in ("events", "bad", "lag", "rate", "state")},
        }

    def counted(self) -> dict[str, float | None]:
        """The counters, which begin with the process."""
        value = self.shown.value
        found = {
            "events": value("freshet_events_total"),
            "bad": value("sum(freshet_records_bad_total)"),
            "users": value('freshet_new_ids_total{kind="user"}'),
            "items": value('freshet_new_ids_total{kind="item"}'),
        }
        for segment in ("overall", "new_user", "returning_user", "new_item"):
            found[segment] = value(f'freshet_evaluated_events_total{{segment="{segment}"}}')
            found[f"{segment} hits"] = value(f'freshet_prequential_hits_total{{segment="{segment}",k="10"}}')
        return found


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    home, file = tmp_path / "home", tmp_path / "events.jsonl"
    spec = new_spec("popularity", {"evaluation_rate": 1.0, "half_life": float("inf")})
    Registry(home).create("mine", spec)
    file.write_text("\n".join(records(0, 400)) + "\n")
    with ExitStack() as held:
        metrics = held.enter_context(prometheus(tmp_path, jobs_of(home)))
        _, address = held.enter_context(server(home))
        yield Run(home, file, Shown(home, address, metrics), Freshet(home, capsys))


@pytest.mark.timeout(900)  # the sum of what it may wait for
def test_page_terminal_prometheus_and_store_agree_with_a_recount_of_the_file(run: Run) -> None:
    work = (*QUICK, "work", "mine", "--from", str(run.file), "--follow")
    with freshet(run.home, *work) as worker:
        agree(run)
        whole = recount(run.file.read_text().splitlines())
        counted = {key: whole[key] for key in ("events", "bad", "users", "items")}
        for name, (hits, evaluated) in whole["segments"].items():
            counted |= {name: evaluated, f"{name} hits": hits}
        until(lambda: run.counted() == counted, "counters that agree with the file")
        told = {row["process"]: row for row in run.command.json("watch")}
        assert (told["work-mine"]["events"], told["work-mine"]["state"]) == (whole["events"], "well")
        assert {row["state"] for row in told.values()} == {"well"}  # the server's, too
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    with run.file.open("a") as file:
        file.writelines(line + "\n" for line in records(400, 100))
    with freshet(run.home, *work) as worker:  # figures go on, and do not begin at 0
        agree(run)
        added = until(lambda: run.shown.value("freshet_events_total"), "events of the second process")
        assert added == recount(run.file.read_text().splitlines())["events"] - whole["events"]
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    stored = run.command.json("versions", "show", "mine")
    last = recount(run.file.read_text().splitlines())
    assert (stored["events"], stored["dead_letters"]) == (last["events"], last["bad"])
    assert stored["rows"] == {"users": last["users"], "items": last["items"]}
    assert stored["offsets"] == {str(run.file): last["records"]}
    hits, evaluated = last["segments"]["overall"]
    assert stored["prequential"]["overall"]["hr@10"] == hits / evaluated


def agree(run: Run) -> None:
    wanted = run.wanted()
    seen: dict[str, Any] = {}

    def same() -> bool:
        seen.update(run.everywhere())
        return seen == wanted

    try:
        until(same, "figures that agree with the file")
    except AssertionError:
        assert seen == wanted
        raise
