"""Requests to a server while versions are promoted and rolled back: each answer is checked."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from state.answers import answers_of
from state.releases import Releases
from state.versions import Registry
from tests.consumers.served import taught

NAMES = ("first", "second")
USERS = ("ann", "bob", "zoe")
_CLIENTS = 4


def two_versions(home: Path) -> None:
    """Two versions that share their users and have no item in common, so that a mixture is seen."""
    for seed, name in enumerate(NAMES):
        items = [f"{name}-{k}" for k in range(5)]
        taught(home, name, "softmax", seed=seed, users=USERS, items=items)
    releases = Releases(home)
    releases.promote(NAMES[0])


def promoted_under_load(home: Path, address: str, requests: int, changes: int) -> Counter[str]:
    """Ask that many times while the champion changes that often; answers by version.

    Raises:
        AssertionError: an answer is wrong or failed.
    """
    turn, asked, changed = threading.Lock(), 0, 0
    vectors = {(name, user): _vector(home, name, user) for name in NAMES for user in USERS}
    seen: Counter[str] = Counter()
    problems: list[str] = []

    def take() -> int:
        """The number of the next request; the champion changes whenever its share of them was sent."""
        nonlocal asked, changed
        with turn:
            number, asked = asked, asked + 1
            if changed < changes and number >= (changed + 1) * requests // (changes + 1):
                releases = Releases(home)
                if changed % 2:
                    releases.rollback("of a test")
                else:
                    releases.promote(NAMES[1], "of a test")
                changed += 1
            return number

    def ask() -> None:
        host, _, port = address.removeprefix("http://").rpartition(":")
        connection = HTTPConnection(host, int(port), timeout=60)
        while not problems and (number := take()) < requests:
            path = _path(number)
            try:
                connection.request("GET", path)
                with connection.getresponse() as response:
                    body = response.read()
                seen[_version_of(response.status, json.loads(body), vectors)] += 1
            except (AssertionError, OSError, ValueError) as error:
                problems.append(f"{path}: {error!r}")
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, problems[0]
    assert changed == changes and sum(seen.values()) == requests, (changed, seen)
    return seen


def _path(number: int) -> str:
    user = USERS[number % len(USERS)]
    return (
        f"/v1/users/{user}/recommendations?k=5&include_recent=true",
        f"/v1/users/{user}/embedding",
        f"/v1/users/{user}/recommendations?k=3",
    )[number // len(USERS) % 3]


def _vector(home: Path, name: str, user: str) -> list[float]:
    with answers_of(Registry(home).get(name)) as answers:
        return answers.embedding("user", user).vector


def _version_of(status: int, answer: dict[str, Any], vectors: dict[tuple[str, str], list[float]]) -> str:
    """The version that answered, all of whose answer is its own."""
    assert status == 200, (status, answer)
    version: str = answer["version"]
    assert version in NAMES and answer["arm"] == "champion", answer
    if "vector" in answer:
        assert answer["vector"] == vectors[version, answer["id"]], answer
        return version
    items = [one["item"] for one in answer["items"]]
    because = [reason.get("item") for one in answer["items"] for reason in one["because"]]
    named = [*items, *(item for item in because if item)]
    assert all(item.startswith(f"{version}-") for item in named), answer
    assert len(set(items)) == len(items), answer
    return version
