"""A version for a process that only asks: questions enter, answers as fresh as can be had leave.

Where a worker learns the version on this machine, or did, answers come from its live tables; else from
the store as of its last commit.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import structlog

from state.answers import Answers
from state.arena import DURABLE, GENERATION, ITEMS_SEQUENCE
from state.catalogue import Catalogue
from state.catalogue_listing import Listing
from state.erasure import check_forgotten
from state.erasure_list import list_size
from state.learned import Learned
from state.ledger import Ledger
from state.live import LiveTables, boot
from state.live_rows import TablesMovedError
from state.live_view import LiveVersion
from state.rocksdb import RocksStore
from state.sequences_directory import sequences_of
from state.sequences_reader import SequenceTables
from state.store_process import StoreProcess
from state.versions import Version
from state.view import Lookup
from streaming.errors import StoreError

logger = structlog.get_logger()

T = TypeVar("T")

_LOOK_S = 0.05  # between two looks for a newer worker
_RELOAD_S = 5.0  # between two looks for a newer commit, where there are no live tables
_CHANGING_S = 1.0  # longest wait for rows that change, and for tables whose slots change hands
_AT_ONCE_S = 0.002  # the same where nothing may take long
_SLEEP_S = 0.0005


class Origin(NamedTuple):
    """What an answer was computed from.

    Attributes:
        kind: the live tables of a worker, or the store.
        age_s: seconds since the worker said that it had learned what there was, or since the store was
            read.
        worker: whether a worker is at work.
    """

    kind: Literal["live", "store"]
    age_s: float
    worker: bool


class _FromStore:
    """The version as of a commit, in memory."""

    def __init__(self, version: Version) -> None:
        self._version = version
        self.identity = version.identity
        self._forgotten_size = 0  # of the list of erasures that the commit follows
        # RocksDB goes on writing its log into the directory that is gone, so that a kill leaves none behind.
        with tempfile.TemporaryDirectory(prefix="freshet-reader-") as private:
            self.store = RocksStore(version.store_path, read_only=True, secondary=Path(private))
        try:
            self.load()
        except BaseException:
            self.store.close()
            raise

    def load(self) -> None:
        """Take the newest commit."""
        self.store.catch_up()
        self.learned = Learned(self._version.spec, self.store, user_cache=1)
        self.read_at = time.monotonic()

    def newer(self) -> bool:
        """Whether there is a newer commit than the one that was loaded."""
        self.store.catch_up()
        self.read_at = time.monotonic()
        ledger, have = Ledger.read(self.store), self.learned.ledger
        return (ledger.number, ledger.erased) != (have.number, have.erased)

    def check_forgotten(self) -> bool:
        """Take the commit that follows the list of erasures; whether there was more of it than before.

        Raises:
            StoreError: there is none yet.
        """
        size = list_size(self._version.home)
        if size == self._forgotten_size:
            return False
        if self.newer():
            self.load()
        check_forgotten(self._version.home, self.learned.ledger.erased)
        self._forgotten_size = size
        return True

    def close(self) -> None:
        self.store.close()


class _NoStore:
    """In place of a store where to read it would take too long."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Refuse.

        Raises:
            StoreError: always.
        """
        raise StoreError(f"{len(keys)} rows are in the store only, which this reader does not wait for.")


class Reader:
    """Answers of a version, one question at a time.

    Args:
        version: it may be learned, restored and learned again meanwhile.
        catalogue: which items may be served; None for all.
        at_once: answer from live tables, within milliseconds, or raise StoreError: for an event loop.
    """

    def __init__(
        self, version: Version, catalogue: Catalogue | None = None, *, at_once: bool = False
    ) -> None:
        self.version = version
        self._catalogue = catalogue
        self._at_once, self._wait_s = at_once, _AT_ONCE_S if at_once else _CHANGING_S
        self._looked = -1.0
        self._live: LiveVersion | None = None
        self._store: _FromStore | None = None
        self._answers: Answers | None = None
        self._path = version.live_path
        self._sequences = SequenceTables(sequences_of(version))

    def ask(self, question: Callable[[Answers], T]) -> T:
        """The answer to a question, of one state of the version.

        Raises:
            StoreError: nothing was learned yet, or neither tables nor store can be read; or it is not to
                be had at once.
            FreshetError: what the question raises.
        """
        until = time.monotonic() + self._wait_s
        while True:
            self._look()
            if self._live is None or self._answers is None:
                return question(self._from_store())
            head = self._live.tables.head
            before = int(head[ITEMS_SEQUENCE]), int(head[GENERATION])
            answer, problem = None, None
            if before[0] % 2 == 0:
                try:
                    self._live.look()
                    answer = question(self._answers)
                except (TablesMovedError, FileNotFoundError):
                    self._looked, before = -1.0, (-2, -2)  # no answer is of these
                except Exception as error:  # of a question that may have met rows of two items in one slot
                    problem = error
                if before == (int(head[ITEMS_SEQUENCE]), int(head[GENERATION])):
                    if problem is not None:
                        raise problem
                    return answer  # type: ignore[return-value]
            if not self._live.tables.alive and before[0] % 2:
                self._drop_live()  # it died while slots changed hands
                return question(self._from_store())
            if time.monotonic() > until:
                raise StoreError(f'The tables of "{self.version.name}" change all the time. Ask again.')
            time.sleep(_SLEEP_S)

    @property
    def origin(self) -> Origin:
        """What the last answer was computed from."""
        if self._live is not None:
            tables = self._live.tables
            return Origin("live", tables.age_s, tables.alive)
        age = time.monotonic() - self._store.read_at if self._store is not None else 0.0
        return Origin("store", age, False)

    def follow(self, budget_s: float = 0.02) -> None:
        """Let the index of many items follow their rows; from one thread, while others ask."""
        live = self._live
        if live is not None and live.index is not None:
            live.index.refresh(budget_s)

    @property
    def live(self) -> LiveVersion | None:
        """The tables that answers come from; None where they come from the store."""
        return self._live

    def close(self) -> None:
        """Give up tables and store."""
        self._drop_live()
        self._sequences.close()
        if self._store is not None:
            self._store.close()
            self._store = None

    def _look(self) -> None:
        """Move over to the tables of a newer worker."""
        now = time.monotonic()
        if self._live is not None and now - self._looked < _LOOK_S:
            return
        self._looked = now
        try:
            run = (self._path / "current").read_text().strip()
        except (FileNotFoundError, NotADirectoryError):
            self._drop_live()
            return
        if self._live is not None and self._live.tables.run == run:
            if self._live.tables.identity != self.version.identity:  # restored meanwhile
                self._drop_live()
            return
        try:
            tables = LiveTables(self._path)
        except FileNotFoundError:  # replaced in this moment
            self._looked = -1.0
            return
        if tables.identity != self.version.identity or tables.boot != boot():
            tables.close()
            self._drop_live()
            return
        self._drop_live()
        self._live = LiveVersion(self.version.spec, tables, self._beside(tables), self._wait_s)
        self._answers = Answers(self.version.name, self._live, self._listing(), self._sequences)
        if self._store is not None:
            self._store.close()
            self._store = None
        logger.info("live_tables_mapped", version=self.version.name, run=run)

    def _beside(self, tables: LiveTables) -> Lookup:
        """The store of what is not in the tables."""
        if self._at_once:
            return _NoStore()
        return StoreProcess(self.version.store_path, lambda: int(tables.head[DURABLE]))

    def _from_store(self) -> Answers:
        if self._at_once:
            raise StoreError(f'"{self.version.name}" has no live tables, and this reader waits for no store.')
        store = self._store
        if store is not None and store.identity != self.version.identity:
            store.close()
            store = self._store = self._answers = None
        if store is None:
            self._store = store = _FromStore(self.version)
            self._answers = None
        elif time.monotonic() - store.read_at > _RELOAD_S and store.newer():
            store.load()
            self._answers = None
        if store.check_forgotten():
            self._answers = None
        if self._answers is None:
            self._answers = Answers(self.version.name, store.learned, self._listing(), self._sequences)
        return self._answers

    def _listing(self) -> Listing | None:
        return Listing(self._catalogue) if self._catalogue is not None else None

    def _drop_live(self) -> None:
        if self._live is not None:
            self._live.tables.close()
            if isinstance(self._live.store, StoreProcess):
                self._live.store.close()
            self._live = self._answers = None
