"""What an audit has found: keys and what is wrong with them enter, a list for people leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

MOST_PROBLEMS = 1000  # kept; the others are counted


class Problem(NamedTuple):
    """Something that does not fit.

    Attributes:
        key: of the value, as text; "" for the store as a whole.
        what: one sentence.
    """

    key: str
    what: str


@dataclass(slots=True)
class Findings:
    """What was checked, and what does not fit.

    Attributes:
        values: those that are not rows.
        problems: the first MOST_PROBLEMS of them.
        found: number of problems in all.
    """

    events: int = 0
    users: int = 0
    items: int = 0
    values: int = 0
    problems: list[Problem] = field(default_factory=list)
    found: int = 0

    def add(self, key: bytes, what: str) -> None:
        """One more problem."""
        self.found += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(text_of(key), what))


def text_of(key: bytes) -> str:
    r"""A key for people.

    >>> text_of("uÅsa".encode()), text_of(b"d\x00\x01x")
    ('uÅsa', 'd\\x00\\x01x')
    """
    text = key.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
