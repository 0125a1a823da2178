"""A version enters; its store leaves, once no other worker has it."""

from __future__ import annotations

from threading import Event as Flag

import structlog

from state.rocksdb import RocksStore
from state.versions import Version
from streaming.errors import StoreLockedError

logger = structlog.get_logger()

_STANDBY_S = 0.5  # between two tries to get the store


def opened(version: Version, stop: Flag, *, waits: bool) -> RocksStore | None:
    """The version's store, once no other worker has it; None when told to stop before.

    Raises:
        StoreLockedError: another worker has it, and this one does not wait.
    """
    told = False
    while True:
        try:
            store = version.open()
        except StoreLockedError:
            if not waits:
                raise
            if not told:
                logger.info("standby", version=version.name, waits_for="the worker that has the store")
            told = True
            if stop.wait(_STANDBY_S):
                return None
        else:
            if told:
                logger.info("taking_over", version=version.name)
            return store
