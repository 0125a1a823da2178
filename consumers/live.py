"""Settings enter; the place where a worker's tables lie while it learns leaves."""

from __future__ import annotations

import structlog

from consumers.settings import Settings
from state.arena import Arena
from state.live import SHARED_MEMORY, LiveArena, discard
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
