"""The catalogue's file or topic enters; a catalogue that follows it leaves."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from threading import Event as Flag
from threading import Thread
from typing import Any, NamedTuple, Protocol

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from consumers.catalogue_records import NoItemError, item_of
from consumers.eventlog.files import format_of
from consumers.eventlog.lines import FileBytes
from consumers.settings import Settings
from state.catalogue import Catalogue, CatalogueItem
from streaming.errors import FreshetError, InputError, InputFormatError

logger = structlog.get_logger()

KEPT = 100  # refused records that are kept to be shown
_PIECE = 10_000  # records that go into the catalogue at one go
_SETTLES = 5  # times that a file which is being written is read again at the start
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


class CatalogueFile:
    """A catalogue in a file: all of it is read again whenever the file changes. Later records win.

    Args:
        path: .jsonl, .ndjson, .json, .csv, .tsv (each also with .gz or .zst) or .parquet.

    Raises:
        InputFormatError: its name promises no known format.
    """

    def __init__(self, path: str, settings: Settings) -> None:
        self.path, self._settings = os.path.abspath(path), settings
        self._format = format_of(path)
        self.catalogue = _empty(settings)
        self._read: tuple[int, ...] | None = None  # how the file stood when it was read

    def refresh(self) -> Reading | None:
        """Read the file again where it has changed.

        Raises:
            InputError: it cannot be read; the catalogue stays as it is.
        """
        stood = self._stands()
        if stood == self._read:
            return None
        for _ in range(_SETTLES if self._read is None else 1):
            reading, filled = Reading(), self.catalogue.blank()
            self._fill(filled, reading)
            if reading.records and reading.refused == reading.records:
                first = reading.shown[0]
                raise InputFormatError(
                    f"{self.path}: none of its {reading.records} records is an item; {first.place}: "
                    f"{first.reason}. Correct the file, or the names in items.fields."
                )
            before, stood = stood, self._stands()
            if stood == before:
                self.catalogue.adopt(filled)
                self._read = stood
                return reading
        if self._read is None:
            raise InputError(f"{self.path} is written all the time. Write a new file and rename it to this.")
        return None  # it is being written; the next look finds it whole

    def close(self) -> None:
        """Nothing is open between two readings."""

    def _stands(self) -> tuple[int, ...]:
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise InputError(
                f"the catalogue {self.path} cannot be read ({error.strerror}). Correct items.file, or put "
                "the file there."
            ) from error
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _fill(self, catalogue: Catalogue, reading: Reading) -> None:
        fields, longest = self._settings.items.fields, self._settings.events.max_id_bytes
        cells = self._format in ("csv", "tsv")
        piece: dict[str, CatalogueItem | None] = {}
        for place, record in self._records():
            reading.records += 1
            try:
                if isinstance(record, NoItemError):
                    raise record
                item = item_of(record, fields, longest, cells=cells)
            except NoItemError as error:
                reading.refuse(place, str(error))
                continue
            piece[item.item] = item
            if len(piece) == _PIECE:
                catalogue.update(piece)
                piece.clear()
        catalogue.update(piece)

    def _records(self) -> Iterator[tuple[str, object]]:
        """(place, record) of the file; in place of a record that cannot be read, why."""
        if self._format == "parquet":
            yield from self._rows_of_parquet()
        elif self._format == "jsonl":
            for number, line in enumerate(_lines(self.path), 1):
                if line.strip():
                    yield f"line {number}", _json(line)
        else:
            yield from self._rows_of_csv()

    def _rows_of_parquet(self) -> Iterator[tuple[str, object]]:
        number = 0
        try:
            with pq.ParquetFile(self.path) as file:
                for batch in file.iter_batches(_PIECE):
                    for record in batch.to_pylist():
                        number += 1
                        yield f"row {number}", record
        except (pa.ArrowInvalid, OSError) as error:
            raise InputFormatError(
                f"{self.path} after row {number}: this is no whole parquet file ({error}). Write it again."
            ) from error

    def _rows_of_csv(self) -> Iterator[tuple[str, object]]:
        lines = (line.decode("utf-8", "surrogateescape") for line in _lines(self.path))
        rows = csv.reader(lines, delimiter="\t" if self._format == "tsv" else ",", strict=True)
        header = [name.removeprefix("\ufeff") for name in next(rows, [])]
        while True:
            place = f"line {rows.line_num + 1}"
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield place, NoItemError(f"the row cannot be read: {error}")
                continue
            if len(row) > len(header):
                yield place, NoItemError(f"expected {len(header)} cells as in the header, got {len(row)}")
            elif not _is_text(row):
                yield place, NoItemError("expected UTF-8, got other bytes")
            elif row:
                yield place, dict(zip(header, row, strict=False))


def open_catalogue(settings: Settings) -> CatalogueInput | None:
    """The catalogue that the settings name, not read yet; None where they name none.

    Raises:
        SettingError: it is in Kafka, and no Kafka is set.
        InputFormatError: the file's name promises no known format.
        BrokerError: Kafka cannot be reached, or has no such topic.
    """
    if settings.items.file:
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


def _empty(settings: Settings) -> Catalogue:
    return Catalogue(serve_unlisted=settings.items.unlisted == "serve")


def _is_text(row: list[str]) -> bool:
    """Whether the bytes of all cells were UTF-8."""
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return False
    return True


def _json(line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        return NoItemError(f"expected JSON, got what is none: {error}")


def _lines(path: str) -> Iterator[bytes]:
    """Lines with their ends; the last one may have none."""
    file, rest = FileBytes(path), b""
    try:
        while block := file.read(0):
            *lines, rest = (rest + block).split(b"\n")
            yield from (line + b"\n" for line in lines)
        if rest:
            yield rest
    finally:
        file.close()
