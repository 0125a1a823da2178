"""The live page: its files and their guards, its stream, the map, and all of it in a real browser."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from benchmarks.browser import browser_path, browsing
from consumers.broker import _free_ports
from consumers.page_feed import PageFeed
from consumers.page_figures import Figures, worst
from consumers.page_map import chart
from consumers.page_metrics import MetricsPage
from consumers.page_server import FILES, POLICY
from tests.consumers.served import ITEMS, client, taught
from tests.consumers.test_server_process import freshet, server

HOSTILE = [
    "<img src=x onerror=window.broken=1>",
    '"><script>window.broken=1</script>',
    "</script><svg onload=window.broken=1>",
    "javascript:window.broken=1",
]
MOST_BYTES = 300_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("page")
    taught(home, "mine", "softmax", users=HOSTILE)
    return home


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    with server(home) as (_, address):
        yield address


def events(address: str, names: set[str]) -> dict[str, Any]:
    """The first event of each of these names."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request("GET", "/feed")
    answer = connection.getresponse()
    assert answer.headers["content-type"].startswith("text/event-stream")
    found: dict[str, Any] = {}
    name = ""
    while names - set(found):
        line = answer.readline().decode()
        assert line, f"the feed ended after {sorted(found)}"
        field, _, value = line.rstrip("\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data = json.loads(value)
            if data and not (name == "picture" and data["versions"][0]["events"] is None):
                found.setdefault(name, data)
    connection.close()
    return found


def test_page_and_its_files_come_with_guards_and_once(home: Path) -> None:
    with client(home) as ask:
        for path, kind in (
            ("/", "text/html"),
            ("/page/stream.js", "text/javascript"),
            ("/page/page.css", "text/css"),
        ):
            answer = ask.get(path)
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith(kind)
            assert answer.headers["content-security-policy"] == POLICY
            again = ask.get(path, headers={"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        for path in ("/page/none.js", "/page/..%2fserver.py", "/page/__init__.py"):
            assert ask.get(path).status_code == 404
        assert ask.get("/feed/map?version=none").json()["error"]["code"] == "unknown_version"
    assert "unsafe" not in POLICY


def test_files_are_small_and_name_no_other_site() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in FILES.iterdir() if path.is_file()}
    assert sum(len(text.encode()) for text in texts.values()) < MOST_BYTES
    for name, text in texts.items():
        outside = set(re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]+[^\s\"')]*", text))
        assert outside <= {"http://www.w3.org/2000/svg"}, name  # a name, which is never fetched
    script = "".join(text for name, text in texts.items() if name.endswith(".js"))
    named = re.findall(r'src="page/([^"]+)"', texts["index.html"])
    assert sorted(named) == sorted(name for name in texts if name.endswith(".js"))
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert way not in script, way
    assert " style=" not in texts["index.html"] and "<script>" not in texts["index.html"]


def test_stream_tells_history_curves_and_a_picture_each_second(address: str) -> None:
    found = events(address, {"history", "curves", "picture"})
    one = found["picture"]["versions"][0]
    assert (one["version"], one["learner"], one["events"], one["items"]) == (
        "mine",
        "softmax",
        120,
        len(ITEMS),
    )
    assert (one["state"], one["worker"], one["words"]) == ("bad", False, "no worker is learning it")
    curve = found["curves"]["mine"]
    assert sum(curve["counts"]) == curve["evaluated"] == curve["segments"]["overall"][1]
    assert sum(curve["hits"]) == curve["segments"]["overall"][0]


def test_one_viewer_too_many_is_refused_and_a_stopped_feed_ends(home: Path) -> None:
    with client(home) as ask:
        feed: PageFeed = ask.app.state.feed  # type: ignore[attr-defined]
        feed._viewers = 10_000
        answer = ask.get("/feed")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")


def test_map_of_a_turned_space_stays_where_it_was() -> None:
    random = np.random.default_rng(5)
    vectors = random.normal(size=(60, 6)).astype(np.float32) * np.array([4, 2, 1, 1, 1, 1], np.float32)
    ids, counts = [f"i{k}" for k in range(60)], np.arange(60, dtype=np.uint32)
    first = chart(ids, vectors, counts)
    turned = vectors @ np.linalg.qr(random.normal(size=(6, 6)))[0].astype(np.float32)
    order = random.permutation(60)
    second = chart([ids[k] for k in order], turned[order], counts[order], first)
    assert np.allclose(second.places, first.places[order], atol=1e-3)
    assert 0.4 < second.explained < 1.0
    assert len(chart([], vectors[:0], counts[:0], second).places) == 0


@pytest.mark.parametrize("dimension", [1, 2])
def test_map_of_few_dimensions_or_equal_items_is_finite(dimension: int) -> None:
    vectors = np.ones((5, dimension), np.float32)
    made = chart(list("abcde"), vectors, np.ones(5, np.uint32))
    assert made.places.shape == (5, 2) and np.isfinite(made.places).all()


def test_rate_falls_to_nothing_where_no_reading_comes_and_begins_anew_after_a_restore() -> None:
    figures = Figures()
    for second in range(10):
        figures.count(float(second), 1000 * second)
    assert figures.rate(9.0) == pytest.approx(1000.0)
    assert figures.rate(18.0) < 600.0  # type: ignore[operator]
    assert figures.rate(60.0) is None
    figures.count(10.0, 5)
    assert figures.rate(10.0) is None


def test_freshness_and_drift_come_from_what_was_added_since() -> None:
    def page(at_1: float, at_2: float, alarms: float) -> Any:
        bucket, of = "freshet_freshness_seconds_bucket", (("kind", "visible"), ("version", "v"))
        return {
            (bucket, tuple(sorted((*of, ("le", "1.0"))))): at_1,
            (bucket, tuple(sorted((*of, ("le", "2.0"))))): at_2,
            (bucket, tuple(sorted((*of, ("le", "+Inf"))))): at_2,
            ("freshet_drift_alarms_total", (("signal", "loss"), ("version", "v"))): alarms,
        }

    figures = Figures()
    figures.take(0.0, "v", page(500, 500, 3), 10)
    assert figures.picture(0.0)["visible_p50_s"] is None and not figures.marks
    figures.take(1.0, "v", page(500, 600, 4), 20)
    assert figures.picture(1.0)["visible_p50_s"] == pytest.approx(1.5)
    assert [(mark["at"], mark["signal"]) for mark in figures.marks] == [(20, "loss")]
    figures.take(2.0, "v", page(1, 1, 0), 30)  # a worker that began anew
    assert figures.picture(2.0)["visible_p50_s"] is None and len(figures.marks) == 1


def test_page_of_a_version_is_its_workers_and_no_other_process_hides_that_it_is_dead() -> None:
    dead, other = MetricsPage("work-v", "127.0.0.1:1"), MetricsPage("sessions-v", "127.0.0.1:2")
    other.samples = {("freshet_sessions_loss", (("version", "v"),)): 0.5}
    demo = MetricsPage("demo", "127.0.0.1:3")
    demo.samples = {("freshet_loop_turns_total", (("version", "v"),)): 12.0}
    assert [page.tells_of("v") for page in (dead, other, demo)] == [True, False, True]


@pytest.mark.parametrize(
    ("known", "state", "words"),
    [
        ({}, "well", "learning"),
        ({"worker": False, "page_state": None}, "bad", "no worker"),
        ({"worker": False, "page_state": None, "serves": False}, "idle", "no worker"),
        ({"worker": False, "page_state": "does not answer", "serves": False}, "bad", "does not answer"),
        ({"worker": False}, "well", "from its commits"),
        ({"age_s": 20.0, "rate": 0.0}, "bad", "stands still for 20 s"),
        ({"age_s": 20.0, "rate": None}, "bad", "stands still"),
        ({"page_state": "does not answer (timed out)"}, "bad", "does not answer"),
        ({"page_state": "replaying: learns what is past"}, "busy", "replaying"),
        ({"page_state": "loop or clock is 99 s away from here"}, "bad", "clock"),
        ({"error": "cannot be read"}, "bad", "cannot be read"),
        ({"opened": False}, "busy", "opened"),
    ],
)
def test_state_is_the_worst_that_is_known(known: dict[str, Any], state: str, words: str) -> None:
    all_well: dict[str, Any] = {
        "error": "", "opened": True, "worker": True, "age_s": 0.1, "serves": True, "page_state": "well",
        "rate": 100.0,
    }  # fmt: skip
    found = worst(**{**all_well, **known})
    assert found[0] == state and words in found[1]


@pytest.mark.skipif(browser_path() is None, reason="no Chromium is installed here")
def test_hostile_ids_run_nothing_and_a_restart_needs_no_reload_in_a_real_browser(tmp_path: Path) -> None:
    taught(tmp_path, "mine", "softmax", users=HOSTILE)
    with browsing() as tab:
        # The same port twice, which no outgoing connection may take meanwhile.
        port = str(_free_ports(1)[0])
        with freshet(tmp_path, "serve", "--port", port) as first:
            assert first.stdout is not None
            address = first.stdout.readline().strip()
            tab.size(390, 844, phone=True)
            tab.open(address)
            tab.wait("document.querySelector('.card h3')?.textContent === 'mine' && state.map !== null")
            assert tab.value("document.documentElement.scrollWidth <= innerWidth")
            for name in HOSTILE:
                tab.value(f"$('user').value = {json.dumps(name)}; $('ask').requestSubmit()")
                tab.wait("document.querySelector('#answer li') !== null")
                tab.value(f"state.map.items[0][0] = {json.dumps(name)}; choose({json.dumps(name)})")
                tab.wait(f"document.querySelector('#near h3')?.textContent === {json.dumps(name)}")
                injected = "document.querySelectorAll('main img, main script, main svg[onload]').length"
                assert tab.value(injected) == 0
            picture = json.dumps(HOSTILE[0])
            named = tab.value(
                f"state.picture.versions[0].version = {picture}; state.picture.others = [{picture}]; "
                "drawVersions(); document.querySelector('.card h3').textContent"
            )
            assert named == HOSTILE[0]
            assert tab.value("typeof window.broken") == "undefined"
            unknown = [one for one in tab.problems if "404" not in one]
            assert not unknown
            first.kill()
            first.wait(60)
            tab.wait("$('link-text').textContent === 'reconnecting' && !$('stale').hidden")
        with freshet(tmp_path, "serve", "--port", port):
            tab.wait("$('link-text').textContent === 'live' && $('stale').hidden")
