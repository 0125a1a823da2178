"""Which version answers, and from what: users and questions enter, answers and their age leave. No HTTP.

Each version that is asked has a seat with two readers: one for the event loop, which answers what lies
in live tables at once, and one for threads, which may wait for the store. A question goes to one reader
of one version, so no answer mixes two.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event as Flag
from threading import Lock, Thread
from typing import Generic, Literal, NamedTuple, TypeVar

import msgspec
import structlog

from consumers.control import worker_of
from state.answers import Answers
from state.catalogue import Catalogue
from state.reader import Origin, Reader
from state.release_file import Released
from state.releases import Releases
from state.versions import Registry, Version
from streaming.errors import FreshetError, StoreError, VersionError, nearest

logger = structlog.get_logger()

T = TypeVar("T")
Arm = Literal["champion", "share", "override", "holdout", "only", "requested"]

THREADS = 2  # for what is not answered on the event loop
_FOLLOW_S = 0.05  # shortest time between two looks of an index at what has changed
_FOLLOW_SHARE = 0.1  # of a core, for following
MOST_WAITING = 256  # questions that wait for a thread; further ones are refused
_Key = tuple[int, int, int]


class UnknownVersionError(VersionError):
    """The version that a request names is not there."""


class NoVersionError(VersionError):
    """No version is there to answer, or none was chosen."""


class OverloadedError(FreshetError):
    """More is asked than can be answered."""

    retriable = True


class Placed(NamedTuple):
    """The version that answers, and why it is this one."""

    version: str
    arm: Arm


class Told(NamedTuple, Generic[T]):
    """An answer, and what it was computed from."""

    value: T
    origin: Origin


class Standing(msgspec.Struct, frozen=True):
    """A version as the list shows it.

    Attributes:
        arm: how it serves; None where it does not.
        share: of the users that are neither held out nor named.
        worker: whether a worker is learning it now.
    """

    version: str
    learner: str
    arm: Literal["champion", "share", "retired"] | None
    share: float
    worker: bool


class _Seat:
    """The readers of one version that is there now."""

    def __init__(self, key: _Key, version: Version, catalogue: Catalogue | None) -> None:
        self.key, self.version = key, version
        self._catalogue = catalogue
        self._lock, self._closed = Lock(), False
        self._patient: Reader | None = None
        self._quick_lock = Lock()  # held for moments only: the event loop must not wait
        self._quick: Reader | None = None

    def quick_told(self, question: Callable[[Answers], T], user: str | None) -> Told[T] | None:
        """An answer from live tables, on the event loop; None where it may take longer.

        Args:
            user: whom the question is about; None where it is about an item.
        """
        with self._quick_lock:
            reader = self._quick
            if reader is None or reader.live is None or not reader.live.tables.alive:
                return None
            if user is not None and reader.live.users.ids.slot_of(user) < 0:
                return None  # only the store knows
            try:
                value = reader.ask(question)
            except StoreError:  # a thread may wait for it
                return None
            return Told(value, reader.origin)

    def told(self, question: Callable[[Answers], T]) -> Told[T]:
        """An answer, whatever it takes; called from a thread.

        Raises:
            StoreError: nothing was learned yet, or the version is gone.
        """
        with self._lock:
            if self._closed:
                raise StoreError(f'The version "{self.version.name}" was replaced just now. Ask again.')
            if self._patient is None:
                self._patient = Reader(self.version, self._catalogue)
            value = self._patient.ask(question)
            told = Told(value, self._patient.origin)
            self._follow(self._patient)
            return told

    def follow(self) -> None:
        """Let the index follow the rows; called from the thread that is for this."""
        reader = self._patient
        if reader is not None:
            reader.follow()

    @property
    def recall(self) -> float | None:
        """Recall of the index, as sampled; None where every item is scored."""
        live = self._patient.live if self._patient is not None else None
        if live is None or live.index is None or live.index.exact:
            return None
        return live.index.recall.at_10

    def close(self) -> None:
        """Give up both readers, once a question that is being answered has its answer."""
        with self._lock:
            self._closed = True
            if self._patient is not None:
                self._patient.close()
            self._patient = None
            self._exchange(None)

    def _follow(self, patient: Reader) -> None:
        """Let the event loop read the tables that the other reader found, where these are of a new worker."""
        live, quick = patient.live, self._quick
        if live is None or not live.tables.alive:
            return
        if quick is None or quick.live is None or quick.live.tables.run != live.tables.run:
            found = Reader(self.version, self._catalogue, at_once=True)
            try:
                found.ask(lambda answers: answers.as_of)  # so that the event loop need not look for them
            except StoreError:  # they are gone, or change: the next question tries again
                found.close()
                return
            self._exchange(found)

    def _exchange(self, reader: Reader | None) -> None:
        with self._quick_lock:
            before, self._quick = self._quick, reader
        if before is not None:
            before.close()


class Serving:
    """Answers of the versions of a home; used from one event loop.

    Args:
        home: any number of processes may serve it.
        catalogue: which items may be served; None for all.
    """

    def __init__(self, home: Path, catalogue: Catalogue | None = None) -> None:
        self.home = home
        self._directory = home / "versions"
        self._registry, self._releases = Registry(home), Releases(home)
        self._catalogue = catalogue
        self._seats: dict[str, _Seat] = {}
        self._names: tuple[int, list[str]] = (-1, [])
        self._threads = ThreadPoolExecutor(THREADS, "answers")
        self._waiting = 0
        self._stop = Flag()
        self._follower = Thread(target=self._follow, name="index", daemon=True)
        self._follower.start()

    def placed(self, user: str | None, requested: str | None = None) -> Placed:
        """The version that answers: the requested one, else the user's, else the champion, else the only one.

        Args:
            user: None where the question is about no user.

        Raises:
            UnknownVersionError: the requested one is not there.
            NoVersionError: there is none, or there are several and none was chosen.
        """
        if requested is not None:
            return Placed(requested, "requested")
        released = self._releases.current()
        if user is not None:
            assigned = released.assign(user)
            if assigned is not None:
                return Placed(assigned.version, assigned.by)
        elif released.champion is not None:
            return Placed(released.champion, "champion")
        names = self.names()
        if len(names) == 1:
            return Placed(names[0], "only")
        if not names:
            raise NoVersionError("There is no version yet. Make one with `freshet versions create NAME`.")
        raise NoVersionError(
            f"There are several versions ({', '.join(names)}) and no champion. Promote one with "
            "`freshet versions promote NAME`, or ask for one with version=."
        )

    def names(self) -> list[str]:
        """Names of all versions; read anew where the directory was changed."""
        try:
            changed = self._directory.stat().st_mtime_ns
        except FileNotFoundError:
            return []
        if self._names[0] != changed:
            self._names = (changed, self._registry.names())
        return self._names[1]

    async def ask(
        self, version: str, question: Callable[[Answers], T], *, quick: bool = False, user: str | None = None
    ) -> Told[T]:
        """An answer of one version.

        Args:
            quick: whether it takes microseconds where the live tables hold what it needs: then it is
                answered at once.
            user: whom the question is about.

        Raises:
            UnknownVersionError: there is no such version.
            OverloadedError: too many questions wait already.
            FreshetError: what the question raises, or reading the version.
        """
        seat = self._seat(version)
        if quick:
            told = seat.quick_told(question, user)
            if told is not None:
                return told
        return await self._in_thread(lambda: seat.told(question))

    async def standings(self) -> list[Standing]:
        """All versions, and how each of them serves."""
        return await self._in_thread(self._standings)

    def arms(self) -> dict[str, tuple[Literal["champion", "share", "retired"] | None, float]]:
        """How each version serves, and its share; asks no worker, so that a stopped one holds up nothing."""
        released = self._releases.current()
        return {name: _arm(released, name) for name in self.names()}

    def has_tables(self, version: str) -> bool:
        """Whether a worker has the version in memory, or had and left its tables."""
        return (self._directory / version / "live" / "current").exists()

    def recalls(self) -> dict[str, float]:
        """Recall of the indexes, by version."""
        found = {name: seat.recall for name, seat in list(self._seats.items())}
        return {name: recall for name, recall in found.items() if recall is not None}

    def close(self) -> None:
        """Wait for the threads, then give up all readers."""
        self._stop.set()
        self._follower.join()
        self._threads.shutdown()
        for seat in self._seats.values():
            seat.close()
        self._seats.clear()

    def _follow(self) -> None:
        """Let the indexes follow their rows, in at most a part of a core."""
        spent = 0.0
        while not self._stop.wait(max(_FOLLOW_S, spent * (1.0 / _FOLLOW_SHARE - 1.0))):
            begun = time.thread_time()
            for seat in list(self._seats.values()):
                seat.follow()
            spent = time.thread_time() - begun

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._waiting >= MOST_WAITING:
            raise OverloadedError(f"{MOST_WAITING} questions wait for an answer already. Ask again later.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1

    def _seat(self, name: str) -> _Seat:
        """The version's seat; another one where it was deleted and made anew, or restored."""
        seat = self._seats.get(name)
        try:
            # A name that was never seen is looked up among those of all versions, never as a path.
            key = _key(self._directory / name) if seat is not None or name in self.names() else None
        except (FileNotFoundError, NotADirectoryError):
            key = None
        if seat is not None and seat.key == key:
            return seat
        if seat is not None:
            del self._seats[name]
            self._threads.submit(seat.close)  # it waits for a question that is being answered
        if key is None:
            near = nearest(name, self.names())
            raise UnknownVersionError(f"There is no version of the name that was asked for.{near}")
        try:
            version = self._registry.get(name)
        except VersionError as error:  # deleted in this moment
            raise UnknownVersionError(str(error)) from error
        seat = self._seats[name] = _Seat(key, version, self._catalogue)
        logger.info("version_opened", version=name)
        return seat

    def _standings(self) -> list[Standing]:
        released = self._releases.read()
        found = []
        for name in self._registry.names():
            try:
                version = self._registry.get(name)
                running = worker_of(version) is not None
            except VersionError:  # deleted in this moment, or a worker of another user
                continue
            arm, share = _arm(released, name)
            found.append(Standing(name, version.spec.learner, arm, share, running))
        return found


def _arm(released: Released, name: str) -> tuple[Literal["champion", "share", "retired"] | None, float]:
    """How a version serves, and its share of the users who are neither held out nor named."""
    arms = released.route.arms if released.route is not None else ()
    share = sum(arm.share for arm in arms if arm.version == name)
    if name == released.champion:
        return "champion", share if arms else 1.0
    if share:
        return "share", share
    return ("retired" if name in released.retired else None), 0.0


def _key(path: Path) -> _Key:
    """Another one for each version and each store that takes a name."""
    status = os.stat(path / "identity")
    return status.st_ino, status.st_mtime_ns, status.st_size
