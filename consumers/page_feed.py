"""What the live page shows: versions, their live tables and metrics pages enter; server-sent events leave.

Everything is gathered once a second however many look, from the first viewer on until some minutes after
the last one has gone. Each source is asked beside the others, so that one that hangs holds up nothing
but its own figures, whose age is told.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec

from consumers.page_experiments import ExperimentPicture
from consumers.page_figures import Figures, worst
from consumers.page_map import Maps
from consumers.page_metrics import MetricsPages
from consumers.serving import OverloadedError, Serving
from consumers.watch import Samples
from state.answers import Answers
from state.evaluations import TOTALS
from state.ledger import bad_records, unsealed
from state.reader import Origin
from streaming.errors import FreshetError
from streaming.evaluation import SEGMENTS, Prequential

EVERY_S = 1.0
MOST_VIEWERS = 64
MOST_VERSIONS = 12  # that are read; further ones are only counted
_FIRST_S = 0.4  # that the first picture waits for its sources
_IDLE_S = 600.0  # that is gathered on after the last viewer has gone
_SLOW_EVERY = 3  # pictures, between two of what changes seldom


class _Look(NamedTuple):
    """What one question to a version brings."""

    learner: str
    number: int
    as_of: float | None
    items: int
    vectors: bool
    bad: int
    totals: bytes | None


def _look(found: Answers) -> _Look:
    learned = found.learned
    totals = learned.store.get_many([TOTALS])[0]
    vectors = any(field.name == "vector" for field in learned.layout.item)
    as_of = found.as_of.timestamp() if found.as_of is not None else None
    number, bad = learned.ledger.number, bad_records(learned.store)
    return _Look(learned.spec.learner, number, as_of, learned.items.count, vectors, bad, totals)


class _Seen:
    """What is known of one version."""

    def __init__(self) -> None:
        self.look: _Look | None = None
        self.origin: Origin | None = None
        self.asked: asyncio.Task[None] | None = None
        self.looked = time.monotonic()
        self.error = ""
        self.figures = Figures()
        self.totals: bytes | None = None
        self.curve: dict[str, Any] | None = None


class PageFeed:
    """The pictures of one server; used from its event loop.

    Args:
        serving: the versions.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._seen: dict[str, _Seen] = {}
        self._pages = MetricsPages(serving.home, self._take)
        self._experiment = ExperimentPicture(serving.home)
        self.maps = Maps(serving)
        self._viewers, self._left_at, self._number = 0, 0.0, 0
        self._gathering: asyncio.Task[None] | None = None
        self._frame = b""
        self._slow: dict[str, tuple[int, bytes]] = {}  # what changes seldom: number of the picture, event
        self._changed = asyncio.Event()
        self._stopping = False

    async def frames(self) -> AsyncIterator[bytes]:
        """The events for one viewer: what has been, then a picture a second, until the server stops.

        Raises:
            OverloadedError: too many look already.
        """
        self._enter()
        try:
            changed, told = self._changed, 0
            if not self._frame:
                await changed.wait()
            yield b"retry: 1000\n\n" + _event("history", self._history())
            while not self._stopping:
                changed = self._changed
                slow = b"".join(event for number, event in self._slow.values() if number > told)
                told = self._number
                yield slow + self._frame
                await changed.wait()
        finally:
            self._viewers -= 1
            self._left_at = time.monotonic()

    def check_room(self) -> None:
        """Refuse one viewer too many.

        Raises:
            OverloadedError: too many look already.
        """
        if self._viewers >= MOST_VIEWERS:
            raise OverloadedError(f"{MOST_VIEWERS} viewers look at the page already. Come again later.")

    def stop(self) -> None:
        """End the streams of all viewers; their pages come back to the next server by themselves."""
        self._stopping = True
        if self._gathering is not None:
            self._gathering.cancel()
        self._changed.set()

    def _enter(self) -> None:
        self.check_room()
        self._viewers += 1
        if self._gathering is None or self._gathering.done():
            self._frame = b""
            self._gathering = asyncio.create_task(self._gather())

    async def _gather(self) -> None:
        wait = _FIRST_S
        while self._viewers or time.monotonic() - self._left_at < _IDLE_S:
            self._ask_versions()
            self._pages.read()
            self._experiment.read(self._number)
            await asyncio.sleep(wait)
            self._number += 1
            self._draw()
            self._changed.set()
            self._changed = asyncio.Event()
            wait = EVERY_S

    def _ask_versions(self) -> None:
        names = self._chosen()
        self._seen = {name: self._seen.get(name) or _Seen() for name in names}
        for name, seen in self._seen.items():
            if seen.asked is None or seen.asked.done():
                seen.asked = asyncio.create_task(self._ask(name, seen))

    def _chosen(self) -> list[str]:
        """Versions that are worth reading: those that serve, those that a worker has or had in memory."""
        arms = self._serving.arms()
        alone = len(arms) == 1
        announced = {name.removeprefix("work-") for name in self._pages.names()}
        found = [
            (arm not in ("champion", "share"), name)
            for name, (arm, _) in arms.items()
            if alone or arm in ("champion", "share") or self._serving.has_tables(name) or name in announced
        ]
        return [name for _, name in sorted(found)[:MOST_VERSIONS]]

    async def _ask(self, name: str, seen: _Seen) -> None:
        try:
            told = await self._serving.ask(name, _look)
        except FreshetError as error:
            seen.error = str(error)
            return
        seen.look, seen.origin, seen.error = told.value, told.origin, ""
        seen.looked = time.monotonic()
        seen.figures.count(seen.looked, seen.look.number)
        if seen.look.totals is not None and seen.look.totals != seen.totals:
            seen.totals, seen.curve = seen.look.totals, _curve(seen.look.totals, seen.look.number)

    def _take(self, version: str, read_at: float, samples: Samples) -> None:
        seen = self._seen.get(version)
        if seen is not None and seen.look is not None:
            seen.figures.take(read_at, version, samples, seen.look.number)

    def _draw(self) -> None:
        now, wall = time.monotonic(), time.time()
        arms = self._serving.arms()
        versions = [self._version(name, seen, arms, now) for name, seen in self._seen.items()]
        for version in versions:
            self._seen[version["version"]].figures.remember(wall, version)
        picture = {
            "now": wall,
            "number": self._number,
            "versions": versions,
            "others": sorted(set(arms) - set(self._seen)),
        }
        self._frame = _event("picture", picture)
        if self._number % _SLOW_EVERY == 1:
            self._draw_slow()

    def _draw_slow(self) -> None:
        """What changes seldom, told again only where it has changed."""
        curves = {
            name: {**seen.curve, "marks": list(seen.figures.marks)}
            for name, seen in self._seen.items()
            if seen.curve is not None
        }
        found = {"curves": curves, "experiment": self._experiment.picture(self._pages)}
        for name, data in found.items():
            event = _event(name, data)
            if name not in self._slow or event != self._slow[name][1]:
                self._slow[name] = self._number, event

    def _version(self, name: str, seen: _Seen, arms: dict[str, Any], now: float) -> dict[str, Any]:
        arm, share = arms.get(name, (None, 0.0))
        look, origin = seen.look, seen.origin
        page = self._pages.of(name)
        row = page.row(name) if page is not None else None
        read_s = now - (page.read_at if page.read_at is not None else page.begun) if page else None
        rate = seen.figures.rate(now)
        state, words = worst(
            error=seen.error if look is None or now - seen.looked > 5.0 else "",
            opened=look is not None,
            worker=origin.worker if origin is not None else False,
            age_s=(origin.age_s if origin is not None else 0.0) + now - seen.looked,
            serves=arm in ("champion", "share") or len(arms) == 1,
            page_state=row["state"] if row is not None else page.state if page is not None else None,
            rate=rate,
        )
        figures = seen.figures.picture(now)
        return {
            "version": name,
            "learner": look.learner if look is not None else None,
            "arm": arm,
            "share": share,
            "state": state,
            "words": words,
            "origin": origin.kind if origin is not None else None,
            "worker": origin.worker if origin is not None else False,
            "age_s": origin.age_s + now - seen.looked if origin is not None else None,
            "metrics_age_s": read_s,
            "as_of": look.as_of if look is not None else None,
            "events": look.number if look is not None else None,
            "items": look.items if look is not None else None,
            "vectors": look.vectors if look is not None else False,
            "events_per_second": rate,
            "lag": row.get("lag") if row is not None else None,
            "dead_letters": look.bad if look is not None else None,
            "steps_skipped": row.get("steps_skipped") if row is not None else None,
            **figures,
        }

    def _history(self) -> dict[str, Any]:
        return {name: list(seen.figures.history) for name, seen in self._seen.items()}


def _curve(totals: bytes, number: int) -> dict[str, Any]:
    """Hits and evaluated events along the stream and by segment, as the store counts them."""
    found = Prequential.restored(json.loads(unsealed(TOTALS, totals)))
    used = math.ceil(found.evaluated / found.span)
    points = found.curve[:used]
    return {
        "span": found.span,
        "events": number,
        "evaluated": found.evaluated,
        "hits": points[:, :20].sum(axis=1).tolist(),  # bin b holds rank b / 2
        "counts": points.sum(axis=1).tolist(),
        "segments": {
            name: [int(row[:20].sum()), int(row.sum())]
            for name, row in zip(SEGMENTS, found.segments, strict=True)
        },
    }


def _event(name: str, data: Any) -> bytes:
    """One server-sent event; NaN becomes null, and JSON holds no line break."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))
