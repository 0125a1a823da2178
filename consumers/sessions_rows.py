"""Rows of a version for the transformer's worker: what its reader sees enters the sequences' own model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from state.answers import Answers
from state.guests import Guests
from state.reader import Reader
from state.sequences_items import ItemRows
from streaming.errors import StoreError

logger = structlog.get_logger()


class VersionRows:
    """Rows of a version as they are now; where it cannot be read, those that were read before stay.

    Args:
        reader: of the version, by live tables or from its store.
        items: takes the rows.
    """

    def __init__(self, reader: Reader, items: ItemRows) -> None:
        self._reader, self._items = reader, items

    def begin(self) -> None:
        """Read the items' rows for the first time.

        Raises:
            StoreError: the version has learned nothing yet, or cannot be read.
        """
        self._reader.ask(lambda answers: self._items.read(answers.learned))

    def read(self) -> None:
        """Read the items' rows, as far as they changed."""
        self._ask(lambda answers: self._items.read(answers.learned))

    def load(self, names: Sequence[str]) -> bool:
        """Rows of users into the model's first slots; whether they could be read."""
        rows = self._items.model.users

        def question(answers: Answers) -> None:
            guest = Guests(answers.learned, 1)
            for k, name in enumerate(names):
                guest.load(name)
                rows.floats[k], rows.seen[k] = guest.rows.floats[0], guest.rows.seen[0]

        return self._ask(question)

    def _ask(self, question: Callable[[Answers], None]) -> bool:
        try:
            self._reader.ask(question)
        except StoreError as error:
            # It is being restored, or is about to forget something.
            logger.warning("version_unread", reason=str(error))
            return False
        return True
