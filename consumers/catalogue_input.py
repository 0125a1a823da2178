"""The catalogue's file or topic enters; a catalogue that follows it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from threading import Event as Flag
from threading import Thread
from typing import NamedTuple, Protocol

import structlog

from consumers.settings import Settings
from state.catalogue import Catalogue
from streaming.errors import FreshetError

logger = structlog.get_logger()

KEPT = 100  # refused records that are kept to be shown
_LOOK_S = 1.0  # between two looks for changes


class Refused(NamedTuple):
    """A record that is no item, and why; the others hold."""

    place: str
    reason: str


@dataclass(slots=True)
class Reading:
    """What came of reading a catalogue.

    Attributes:
        records: of all kinds.
        refused: how many are no items.
        shown: the first KEPT of these.
    """

    records: int = 0
    refused: int = 0
    shown: list[Refused] = field(default_factory=list)

    def refuse(self, place: str, reason: str) -> None:
        """Note a record that is no item."""
        self.refused += 1
        if len(self.shown) < KEPT:
            self.shown.append(Refused(place, reason))


class CatalogueInput(Protocol):
    """Where a catalogue comes from."""

    catalogue: Catalogue

    def refresh(self) -> Reading | None:
        """Take in what has changed; None where nothing has. The first call takes in all there is.

        Raises:
            InputError: the file cannot be read; the catalogue stays as it is.
            BrokerError: Kafka cannot be reached; the catalogue stays as it is.
        """
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...


def open_catalogue(settings: Settings) -> CatalogueInput | None:
    """The catalogue that the settings name, not read yet; None where they name none.

    Raises:
        SettingError: it is in Kafka, and no Kafka is set.
        InputFormatError: the file's name promises no known format.
        BrokerError: Kafka cannot be reached, or has no such topic.
    """
    if settings.items.file:
        from consumers.catalogue_file import CatalogueFile  # loads Arrow

        return CatalogueFile(settings.items.file, settings)
    if settings.items.topic:
        from consumers.catalogue_topic import CatalogueTopic  # loads Kafka's client

        return CatalogueTopic(settings)
    return None


def read_catalogue(settings: Settings) -> Catalogue | None:
    """The catalogue as it is now; None where the settings name none. Refused records are told to the log.

    Raises:
        SettingError, InputError, BrokerError: it cannot be read.
    """
    source = open_catalogue(settings)
    if source is None:
        return None
    try:
        tell(source.refresh())
    finally:
        source.close()
    return source.catalogue


@contextmanager
def followed_catalogue(settings: Settings) -> Iterator[Catalogue | None]:
    """The catalogue, kept up with its source while the block runs; None where the settings name none.

    Raises:
        SettingError, InputError, BrokerError: it cannot be read at the start.
    """
    source = open_catalogue(settings)
    if source is None:
        yield None
        return
    stop = Flag()
    follower = Thread(target=follow, args=(source, stop), name="catalogue", daemon=True)
    with closing(source):
        tell(source.refresh())
        follower.start()
        try:
            yield source.catalogue
        finally:
            stop.set()
            follower.join()


def follow(source: CatalogueInput, stop: Flag) -> None:
    """Keep a catalogue up with its source until told to stop; what goes wrong is logged, and tried again."""
    said = ""
    while not stop.wait(_LOOK_S):
        try:
            tell(source.refresh())
            said = ""
        except FreshetError as error:
            if str(error) != said:
                said = str(error)
                logger.warning("catalogue_unreadable", reason=said, effect="the catalogue stays as it is")


def tell(reading: Reading | None) -> None:
    """Log what came of a reading."""
    if reading is None:
        return
    if reading.refused:
        first = reading.shown[0]
        logger.warning(
            "catalogue_records_refused",
            refused=reading.refused,
            records=reading.records,
            first=f"{first.place}: {first.reason}",
            see="freshet catalogue check",
        )
    else:
        logger.debug("catalogue_read", records=reading.records)
