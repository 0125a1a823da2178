"""What is known of one partition of a topic while it is read, and how its source is named."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from streaming.decoding import JsonDecoder


class Token(NamedTuple):
    """What must be found again: the topic by its id ("" where Kafka gives none), and the leader's epoch."""

    topic_id: str
    epoch: int

    def __str__(self) -> str:
        return f"{self.topic_id}@{self.epoch}"

    @classmethod
    def read(cls, text: str) -> Token:
        """The token of a text.

        >>> Token.read(str(Token("6e5f", 7)))
        Token(topic_id='6e5f', epoch=7)
        """
        topic_id, _, epoch = text.rpartition("@")
        return cls(topic_id, int(epoch))


@dataclass(slots=True)
class Part:
    """A partition while it is read."""

    number: int
    generation: int
    name: str
    decoder: JsonDecoder
    position: int = 0  # of the next record that is handed out
    fetched: int = 0  # of the next record that is fetched, without the batch reader only
    token: Token = field(default_factory=lambda: Token("", -1))
    newest_s: float | None = None  # time of the newest record that was handed out
    told_key: bool = False
    refused_since: float | None = None  # monotonic, while the leader refuses an offset that it has


def source_name(topic: str, generation: int, number: int) -> str:
    """Name of a partition's source; generations after the first are of a topic that was made anew."""
    return f"{topic}[{number}]" if generation == 1 else f"{topic}#{generation}[{number}]"


def parsed_name(topic: str, name: str) -> tuple[int, int] | None:
    """Generation and partition of a source's name, None where it is of another topic.

    >>> [parsed_name("events", name) for name in ("events#2[7]", "events[7]", "views[7]")]
    [(2, 7), (1, 7), None]
    """
    match = re.fullmatch(re.escape(topic) + r"(?:#(\d+))?\[(\d+)\]", name)
    return (int(match[1] or 1), int(match[2])) if match else None
