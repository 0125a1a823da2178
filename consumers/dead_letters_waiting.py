"""Bad records enter; they go to the dead letter topic, and where Kafka does not take them, the worker waits.

Nothing behind a bad record may be committed before the record is kept, so there is nothing better to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from threading import Event as Flag

import structlog

from consumers.dead_letter_topic import KafkaDeadLetters
from consumers.dead_letters import DeadLetter
from streaming.errors import BrokerError
from streaming.events import BadRecord

logger = structlog.get_logger()

_ANSWER_S = 5.0  # without an acknowledgement, after which it is said
_NAP_S = 1.0  # between two tries


class PatientLetters:
    """The dead letters of a version in a topic, which outlive a Kafka that is out of reach.

    Args:
        stop: tells the worker to stop; then a record that is not taken is an error.
        answer_s: seconds without an acknowledgement after which it is said that the worker waits.
    """

    def __init__(self, letters: KafkaDeadLetters, stop: Flag, answer_s: float = _ANSWER_S) -> None:
        self._letters, self._stop, self._answer_s = letters, stop, answer_s

    @property
    def place(self) -> str:
        """The topic."""
        return self._letters.place

    def append(self, source: str, bad: BadRecord) -> None:
        """Add a record; durable after `sync`.

        Raises:
            BrokerError: Kafka refuses it, or the worker is to stop while Kafka cannot be reached.
        """
        self._patiently(partial(self._letters.append, source, bad))

    def sync(self) -> None:
        """Wait until Kafka has acknowledged all appended records.

        Raises:
            BrokerError: as for `append`.
        """
        self._patiently(partial(self._letters.sync, self._answer_s))

    def read(self) -> Iterator[DeadLetter]:
        """Every record, once for each (source, offset)."""
        return self._letters.read()

    def close(self) -> None:
        """Leave; what was not acknowledged shortly comes again, since nothing behind it is committed."""
        self._letters.close(self._answer_s)

    def _patiently(self, call: Callable[[], None]) -> None:
        waits = False
        while True:
            try:
                call()
            except BrokerError as error:
                if not error.retriable or self._stop.is_set():
                    raise
                if not waits:
                    logger.warning(
                        "dead_letters_wait",
                        error=str(error),
                        effect="nothing more is learned until Kafka takes them",
                    )
                waits = True
                self._stop.wait(_NAP_S)
            else:
                if waits:
                    logger.info("dead_letters_taken_again")
                return
