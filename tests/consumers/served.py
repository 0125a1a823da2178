"""A home with versions that learned, and the server's application over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from consumers.eventlog.segments import EVENTS, Segments
from consumers.posting import Intake, SegmentPosts
from consumers.server import build
from consumers.server_access import Access
from consumers.serving import Serving
from state.learned import Learned
from state.spec import new_spec
from state.versions import Registry, Version
from streaming.rules import EventRules
from tests.state.streams import batch, teach

HERE = "http://127.0.0.1"
LIMITED: dict[str, Any] = {
    "dimension": 4, "start": 1, "negatives": 5, "recent": 20, "history": 2, "context": 2
}  # fmt: skip
USERS = ["ann", "bob", "a/b c", "zoë"]
ITEMS = ["tea", "cup", "x/y", "пирог", "milk"]


def taught(
    home: Path,
    name: str,
    learner: str = "popularity",
    *,
    seed: int = 0,
    users: Sequence[str] = USERS,
    items: Sequence[str] = ITEMS,
) -> Version:
    """A version that learned 120 events of these users and five items, others for another seed."""
    options = LIMITED if learner == "softmax" else {}
    version = Registry(home).create(name, new_spec(learner, options))
    with version.open() as store:
        events = batch(
            [users[(k + seed) % len(users)] for k in range(120)],
            [items[(k * k + seed * k) % 5] for k in range(60)] + [*items] * 12,
        )
        teach(Learned(version.spec, store), events, commit=60)
    return version


@contextmanager
def application(home: Path, access: Access | None = None, **others: Any) -> Iterator[FastAPI]:
    """The server's application over a home."""
    log = SegmentPosts(Segments(home / EVENTS))
    with closing(Serving(home)) as serving, closing(Intake(log)) as intake:
        yield build(serving, intake, EventRules(), access=access, **others)


@contextmanager
def client(home: Path, access: Access | None = None, **others: Any) -> Iterator[TestClient]:
    """A client of it, on this machine."""
    with application(home, access, **others) as app, TestClient(app, base_url=HERE) as made:
        yield made
