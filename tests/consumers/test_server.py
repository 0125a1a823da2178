"""The query API: what each path answers, which version answers, and what bad requests are told."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from starlette.testclient import TestClient

from consumers.eventlog.segments import segments_in
from consumers.server_access import Access
from consumers.server_forms import _LISTS, EXAMPLES, joined
from state.answers import answers_of
from state.learned import Learned
from state.live import LiveArena
from state.releases import Releases
from state.spec import new_spec
from state.versions import Registry
from streaming.routing import Route, divided
from tests.consumers.served import ITEMS, LIMITED, USERS, client, taught
from tests.state.streams import batch, teach

JSON = {"content-type": "application/json"}
SERVED = {"version", "arm", "origin", "age_s", "worker", "as_of"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("home")
    taught(made, "mine", "softmax")
    taught(made, "popular", "popularity")
    Registry(made).create("fresh", new_spec("popularity", {}))
    Releases(made).promote("mine")
    return made


@pytest.fixture(scope="module")
def api(home: Path) -> Iterator[TestClient]:
    with client(home) as made:
        yield made


def got(api: TestClient, path: str, status: int = 200, **query: Any) -> dict[str, Any]:
    answer = api.get(path, params=query)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def told(answer: Any, status: int, code: str) -> str:
    """The message of an error, which is in the one form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"] and set(body["error"]) <= {"code", "message", "problems"}
    assert body["error"]["code"] == code
    message: str = body["error"]["message"]
    assert message.strip() and "Traceback" not in message
    return message


@pytest.mark.parametrize("user", USERS)
def test_answers_are_those_of_the_version_and_name_it(home: Path, api: TestClient, user: str) -> None:
    path = f"/v1/users/{quote(user, safe='')}"
    with answers_of(Registry(home).get("mine")) as answers:
        recommended = msgspec.to_builtins(answers.recommend(user, 3))
        vector = msgspec.to_builtins(answers.embedding("user", user))
        near = msgspec.to_builtins(answers.similar("user", user, 2, "dot"))
        scores = msgspec.to_builtins(answers.score(user, [*ITEMS, "never"]))
    found = got(api, f"{path}/recommendations", k=3)
    assert found.items() >= recommended.items() and set(found) >= SERVED | {"represented_by"}
    assert (found["version"], found["arm"], found["origin"]) == ("mine", "champion", "store")
    embedding = got(api, f"{path}/embedding")
    assert embedding.items() >= vector.items() and set(embedding) >= SERVED | {"represented_by"}
    assert embedding["as_of"] == found["as_of"]
    similar = got(api, f"{path}/similar", k=2, by="dot")
    assert similar.items() >= near.items() and set(similar) >= SERVED
    body = json.dumps({"user": user, "items": [*ITEMS, "never"]})
    scored = api.post("/v1/scores", content=body).json()
    assert scored.items() >= scores.items() and set(scored) >= SERVED
    assert scored["scores"][-1] == {"item": "never", "score": None}


@pytest.mark.parametrize("item", ITEMS)
def test_items_are_answered_by_ids_of_any_kind(home: Path, api: TestClient, item: str) -> None:
    with answers_of(Registry(home).get("mine")) as answers:
        vector = msgspec.to_builtins(answers.embedding("item", item))
        near = msgspec.to_builtins(answers.similar("item", item, 10))
    for path in (f"/v1/items/{quote(item, safe='')}", f"/v1/items/{quote(item)}"):  # the slash may stand bare
        assert got(api, f"{path}/embedding").items() >= vector.items()
        assert got(api, f"{path}/similar").items() >= near.items()


def test_recent_items_are_recommended_only_where_asked_for(api: TestClient) -> None:
    path = "/v1/users/ann/recommendations"
    without = {one["item"] for one in got(api, path)["items"]}
    assert without < {one["item"] for one in got(api, path, include_recent=True)["items"]} == set(ITEMS)


def test_unknown_user_gets_what_is_popular_and_no_vector(api: TestClient) -> None:
    found = got(api, "/v1/users/nobody/recommendations", version="popular")
    assert found["represented_by"] == "popularity" and len(found["items"]) == len(ITEMS)
    assert "never seen" in told(api.get("/v1/users/nobody/embedding"), 404, "unknown_id")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/items/never/embedding", 404, "unknown_id"),
        ("/v1/items/never/similar", 404, "unknown_id"),
        ("/v1/users/ann/recommendations?version=none", 404, "unknown_version"),
        ("/v1/users/ann/recommendations?version=..%2F..", 404, "unknown_version"),
        ("/v1/users/ann/recommendations?version=fresh", 503, "unavailable"),
        ("/v1/users/ann/embedding?version=popular", 409, "not_possible"),
        ("/v1/users/ann/recommendations?k=0", 422, "invalid"),
        ("/v1/users/ann/recommendations?k=-1", 422, "invalid"),
        ("/v1/users/ann/recommendations?k=1000000000", 422, "invalid"),
        ("/v1/users/ann/recommendations?k=ten", 422, "invalid"),
        ("/v1/users/ann/recommendations?include_recent=perhaps", 422, "invalid"),
        ("/v1/users/ann/recommendations?category=any", 422, "invalid"),
        ("/v1/users/ann/similar?by=hamming", 422, "invalid"),
        ("/v1/users//embedding", 422, "invalid"),
        (f"/v1/users/{'x' * 257}/embedding", 414, "id_too_long"),
        (f"/v1/route/{'x' * 257}", 414, "id_too_long"),
        ("/v1/users/%ff/embedding", 400, "bad_request"),
        ("/v1/users/ann/recommendations?category=%ff", 400, "bad_request"),
        ("/v1/users/ann", 404, "not_found"),
        ("/nothing", 404, "not_found"),
        ("/v1/events", 405, "method_not_allowed"),
    ],
)
def test_request_that_cannot_be_answered_says_why(api: TestClient, path: str, status: int, code: str) -> None:
    message = told(api.get(path), status, code)
    assert "/versions/" not in message  # paths of the machine are nobody's business


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "bad_request"),
        (b"{", 400, "bad_request"),
        (b"\xff\xfe", 400, "bad_request"),
        (b"[" * 100_000, 422, "invalid"),
        (b'{"user": "\\ud800", "items": ["tea"]}', 400, "bad_request"),
        (b'{"user": "ann"}', 422, "invalid"),
        (b'{"user": "ann", "items": []}', 422, "invalid"),
        (b'{"user": "ann", "items": [7]}', 422, "invalid"),
        (b'{"user": "", "items": ["tea"]}', 422, "invalid"),
        (b'{"user": "ann", "items": ["tea"], "other": 1}', 422, "invalid"),
        (b'{"user": "ann", "items": ["%s"]}' % (b"x" * 300), 422, "id_too_long"),
        (b'{"user": "ann", "items": ["%s"]}' % (b"x" * 3_000_000), 413, "too_large"),
        (b'{"user": "ann", "items": [%s"tea"]}' % (b'"tea",' * 10_000), 422, "invalid"),
    ],
)
def test_body_that_cannot_be_read_says_why(api: TestClient, body: bytes, status: int, code: str) -> None:
    told(api.post("/v1/scores", content=body), status, code)


def test_body_without_a_length_is_bounded_too(api: TestClient) -> None:
    parts = (b"x" * 100_000 for _ in range(40))
    told(api.post("/v1/scores", content=parts), 413, "too_large")


def test_route_decides_unless_a_version_is_named(tmp_path: Path) -> None:
    taught(tmp_path, "a")
    with client(tmp_path) as api:
        assert got(api, "/v1/route/ann") == {"user": "ann", "version": "a", "arm": "only"}
        taught(tmp_path, "b", seed=1)
        assert "no champion" in told(api.get("/v1/route/ann"), 503, "no_version")
        assert "no champion" in told(api.get("/readyz"), 503, "no_version")
        releases = Releases(tmp_path)
        releases.promote("a")
        assert got(api, "/v1/route/ann")["arm"] == "champion"
        releases.set_route(Route("s", divided({"a": 0.5, "b": 0.5}), {"zoë": "b"}), "halves")
        found = {got(api, f"/v1/route/{k}")["version"] for k in range(20)}
        assert found == {"a", "b"}
        assert got(api, "/v1/route/zoë") == {"user": "zoë", "version": "b", "arm": "override"}
        for k in range(20):
            answer = got(api, f"/v1/users/{k}/recommendations")
            assert answer["version"] == got(api, f"/v1/route/{k}")["version"] and answer["arm"] == "share"
        asked = got(api, "/v1/users/zoë/recommendations", version="a")
        assert (asked["version"], asked["arm"]) == ("a", "requested")
        found_versions = got(api, "/v1/versions")
        assert found_versions["champion"] == "a"
        assert [(v["version"], v["arm"], v["share"]) for v in found_versions["versions"]] == [
            ("a", "champion", 0.5),
            ("b", "share", 0.5),
        ]


def test_server_moves_over_to_each_worker_and_back_to_the_store(tmp_path: Path) -> None:
    version = Registry(tmp_path).create("mine", new_spec("softmax", LIMITED))
    path = "/v1/users/ann/embedding"
    with client(tmp_path) as api:
        for run in range(3):
            with version.open() as store, closing(LiveArena(version.live_path, version.identity)) as arena:
                learned = Learned(version.spec, store, arena=arena)
                known = 6 * (run + 1)
                events = batch(["ann", "bob"] * known, ["tea", "cup", "x/y", "milk"] * (known // 2))
                teach(learned, events, commit=6)
                arena.publish()
                until = time.monotonic() + 60
                while (found := api.get(path).json()).get("events") != known:
                    assert time.monotonic() < until, found
                for _ in range(3):  # by the event loop, and by a thread
                    found = got(api, path)
                    assert (found["origin"], found["worker"], found["events"]) == (
                        "live",
                        True,
                        6 * (run + 1),
                    )
                    assert got(api, "/v1/users/ann/recommendations")["worker"] is True
            left = got(api, path)
            assert (left["vector"], left["worker"]) == (found["vector"], False)


def test_home_without_versions_says_so_and_answers_once_there_is_one(tmp_path: Path) -> None:
    with client(tmp_path) as api:
        assert "There is no version yet" in told(api.get("/readyz"), 503, "no_version")
        assert api.get("/readyz").headers["retry-after"] == "1"
        assert got(api, "/livez") == {"status": "alive"}
        assert got(api, "/v1/versions") == {"champion": None, "versions": []}
        taught(tmp_path, "mine")
        assert got(api, "/readyz") == {"status": "ready"}


def test_version_made_anew_under_its_name_answers_as_itself(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    taught(tmp_path, "mine", users=["ann"])
    with client(tmp_path) as api:
        assert len(got(api, "/v1/users/ann/recommendations")["items"]) > 0
        registry.delete("mine")
        told(api.get("/v1/users/ann/recommendations?version=mine"), 404, "unknown_version")
        registry.create("mine", new_spec("popularity", {}))
        told(api.get("/v1/users/ann/recommendations"), 503, "unavailable")
        registry.delete("mine")
        taught(tmp_path, "mine", "softmax")
        assert got(api, "/v1/users/ann/embedding")["dimension"] == 4


def test_no_answer_mixes_versions_while_they_are_promoted(tmp_path: Path) -> None:
    names = ["a", "b"]
    expected = {}
    for seed, name in enumerate(names):
        version = taught(tmp_path, name, "softmax", seed=seed)
        with answers_of(version) as answers:
            expected[name] = answers.embedding("user", "ann").vector, answers.recommend("ann", 3).items
    assert expected["a"] != expected["b"]
    releases = Releases(tmp_path)
    releases.promote("a")

    def promote() -> None:
        for k in range(30):
            releases.promote(names[(k + 1) % 2])

    with client(tmp_path) as api, ThreadPoolExecutor(1) as threads:
        promoting = threads.submit(promote)
        seen, n = set(), 0
        while not promoting.done() or n < 100:
            vector = got(api, "/v1/users/ann/embedding")
            items = got(api, "/v1/users/ann/recommendations", k=3)
            assert vector["vector"] == expected[vector["version"]][0]
            assert items["items"] == msgspec.to_builtins(expected[items["version"]][1])
            seen.add(vector["version"])
            n += 1
        promoting.result()
    assert seen == {"a", "b"}


def test_metrics_count_by_template_and_never_name_an_id(home: Path) -> None:
    with client(home) as api:
        api.get("/v1/users/secret-id/embedding")
        api.get("/v1/users/secret-id/recommendations")
        api.get("/secret-id")
        page = api.get("/metrics").text
    assert 'freshet_http_requests_total{route="/v1/users/{user}/embedding",status="404"} 1.0' in page
    assert 'freshet_http_requests_total{route="unmatched",status="404"} 1.0' in page
    assert 'freshet_http_request_seconds_count{route="/v1/users/{user}/recommendations"} 1.0' in page
    assert "secret-id" not in page


def test_examples_are_of_the_forms_that_they_show() -> None:
    for name, parts in EXAMPLES.items():
        whole = msgspec.json.decode(joined(*parts))
        assert [type(part) for part in parts] == list(_LISTS[name])
        for part in parts:
            fields = {field: whole[field] for field in part.__struct_fields__}
            assert msgspec.convert(fields, type(part)) == part


# -- events ---------------------------------------------------------------------------------------


def lines(home: Path) -> list[Any]:
    return [
        json.loads(line) for path in segments_in(home / "events") for line in path.read_bytes().splitlines()
    ]


def test_posted_events_are_in_the_log_when_they_are_answered(tmp_path: Path) -> None:
    with client(tmp_path) as api:
        one = {"user": "ann", "item": 7, "ts": 1_700_000_000, "type": "view", "value": 2.5, "shop": {"id": 1}}
        assert api.post("/v1/events", json=one).json() == {"events": 1, "log": "segments"}
        many = [{"user": f"u{k}", "item": "i", "ts": "2024-01-31T12:00:00Z"} for k in range(3)]
        assert api.post("/v1/events", json=many).json() == {"events": 3, "log": "segments"}
        assert lines(tmp_path) == [{**one, "ts": 1_700_000_000_000_000}, *many]
        api.post("/v1/events", json={"user": "ann", "item": "now"})
        assert "freshet_events_posted_total 5.0" in api.get("/metrics").text
    assert 1.7e15 < lines(tmp_path)[-1]["ts"] < 4e15


def test_bad_events_are_each_told_why_and_none_is_written(tmp_path: Path) -> None:
    good = {"user": "ann", "item": "tea"}
    bad = [
        good,
        {"user": 7.5, "item": "tea"},
        "text",
        {**good, "ts": -1},
        {**good, "ts": 4e9},
        {"item": "tea"},
    ]
    with client(tmp_path) as api:
        answer = api.post("/v1/events", json=bad)
        assert "5 of 6 are no events" in told(answer, 422, "bad_event")
        reasons = {one["at"]: one["reason"] for one in answer.json()["error"]["problems"]}
        assert list(reasons) == ["events[1]", "events[2]", "events[3]", "events[4]", "events[5]"]
        assert "text or an integer" in reasons["events[1]"] and "ahead" in reasons["events[4]"]
        told(api.post("/v1/events", json={"user": "ann"}), 422, "bad_event")
        told(api.post("/v1/events", json=[]), 422, "invalid")
        told(api.post("/v1/events", content=b"{", headers=JSON), 400, "bad_request")
        told(api.post("/v1/events", content=b'{"a":' * 50_000, headers=JSON), 400, "bad_request")
        told(api.post("/v1/events", content=b"1e999", headers=JSON), 422, "invalid")
    assert not (tmp_path / "events").exists() or lines(tmp_path) == []


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"content-type": "text/plain"}, 415, "not_json"),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, "not_json"),
        ({**JSON, "origin": "http://evil.example"}, 403, "forbidden"),
        ({**JSON, "origin": "null"}, 403, "forbidden"),
        ({**JSON, "host": "evil.example"}, 403, "forbidden"),
        ({**JSON, "host": "127.0.0.1.evil.example:80"}, 403, "forbidden"),
    ],
)
def test_events_from_pages_of_other_sites_are_refused(
    tmp_path: Path, headers: dict[str, str], status: int, code: str
) -> None:
    event = json.dumps({"user": "ann", "item": "tea"})
    with client(tmp_path) as api:
        told(api.post("/v1/events", content=event, headers=headers), status, code)
        own = {**JSON, "origin": "http://localhost:8000", "host": "localhost:8000"}
        assert api.post("/v1/events", content=event, headers=own).status_code == 200


def test_token_is_needed_where_one_is_set(tmp_path: Path) -> None:
    event = {"user": "ann", "item": "tea"}
    with client(tmp_path, Access("s3cret", "0.0.0.0")) as api:
        answer = api.post("/v1/events", json=event)
        assert "s3cret" not in told(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
        for given in ("Bearer s3cre", "Bearer s3cret2", "s3cret", "Basic s3cret", "Bearer "):
            wrong = api.post("/v1/events", json=event, headers={"authorization": given})
            told(wrong, 401, "unauthorized")
        right = {"authorization": "Bearer s3cret", "host": "freshet.example"}
        assert api.post("/v1/events", json=event, headers=right).status_code == 200
        assert got(api, "/livez") == {"status": "alive"}


def test_many_posts_at_once_are_all_durable(tmp_path: Path) -> None:
    with client(tmp_path) as api, ThreadPoolExecutor(8) as threads:
        posts = [{"user": f"u{k}", "item": "i"} for k in range(100)]
        answers = list(threads.map(lambda event: api.post("/v1/events", json=event).status_code, posts))
    assert answers == [200] * 100
    assert sorted(line["user"] for line in lines(tmp_path)) == sorted(event["user"] for event in posts)


def test_log_that_takes_nothing_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = {"user": "ann", "item": "tea"}
    with client(tmp_path) as api:
        assert api.post("/v1/events", json=event).status_code == 200
        monkeypatch.setattr("consumers.server_events._WRITE_S", 0.1)
        with (tmp_path / "events" / "lock").open("a") as lock:  # as a process that was stopped has it
            fcntl.flock(lock, fcntl.LOCK_EX)
            told(api.post("/v1/events", json=event), 503, "unavailable")
            assert got(api, "/livez") == {"status": "alive"}
    assert len(lines(tmp_path)) == 2
