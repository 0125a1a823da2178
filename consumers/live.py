"""Settings enter; the place where a worker's tables lie while it learns leaves."""

from __future__ import annotations

import structlog

from consumers.settings import Settings
from state.arena import Arena
from state.erasure import follow
from state.erasure_list import read_erasures
from state.ledger import Ledger
from state.live import SHARED_MEMORY, LiveArena, discard
from state.store import Store
from state.versions import Version
from streaming.errors import StoreError

logger = structlog.get_logger()


def live_arena(version: Version, settings: Settings) -> Arena:
    """Where the tables of a version lie while it learns, as set; in memory alone where there is no room."""
    where = settings.worker.live_tables
    if where == "off":
        discard(version.live_path)
        return Arena()
    try:
        return LiveArena(version.live_path, version.identity, SHARED_MEMORY if where == "auto" else None)
    except StoreError as error:
        discard(version.live_path)
        logger.warning("no_live_tables", reason=str(error))
        return Arena()


def forget_first(version: Version, store: Store) -> None:
    """Follow the list of erasures before tables are published: no server may read what is to be forgotten.

    Tables that a killed worker left go at once; servers read the store, which answers once all is followed.

    Raises:
        StoreError: the list cannot be read, or is not whole.
    """
    if len(read_erasures(version.home)) != Ledger.read(store).erased:
        discard(version.live_path)
        follow(version.spec, store, version.home)
