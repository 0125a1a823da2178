"""Versions and event files for crash tests, and what is left of them, read without Freshet's reader."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, cast

from rocksdict import AccessType, Options, Rdict

from consumers.dead_letters import DeadLetter, DeadLetters
from state.spec import new_spec
from state.versions import Registry, Version
from tests.crash.driver import Driver, Job

FORGETFUL = {
    "admit_users": 1.5,
    "admit_items": 1.5,
    "admission_half_life": 400,
    "users_live_s": 86_400,
    "items_live_s": 2 * 86_400,
}
LEARNERS: dict[str, dict[str, Any]] = {
    "popularity": {},
    "softmax": {"dimension": 4, "negatives": 8, "recent": 1500, "context": 3, "history": 5, "start": 5},
}
BAD = (
    b"no json",
    b'{"user": 7.5, "item": "i", "ts": 1700000000}',
    b'{"user": "u", "ts": 1700000000}',
    b'{"user": "u", "item": "i", "ts": -1}',
    b'{"user": "u", "item": "", "ts": 1700000000}',
    b"\xff\xfe",
    b"",
)


def write_events(path: Path, n: int, seed: int) -> Path:
    """A JSON lines file over four days with skewed users and items, late events and bad records."""
    random = Random(seed)
    with path.open("wb") as file:
        for k in range(n):
            phase = 4 * k // n
            event = {
                "user": f"u{int(50 * random.random() ** 2) + 15 * phase}",
                "item": f"i{int(30 * random.random() ** 2) + 8 * phase}",
                "ts": 1_700_000_000 + 4 * 86_400 * k // n - random.choice([0] * 9 + [200_000]),
            }
            file.write(json.dumps(event).encode() + b"\n")
            if k % 41 == 7:
                file.write(BAD[k // 41 % len(BAD)] + b"\n")
    return path


def plain(version: Version) -> dict[bytes, bytes]:
    """All keys and values of a version's store, read with plain rocksdict."""
    store = Rdict(str(version.store_path), Options(raw_mode=True), access_type=AccessType.read_only(False))
    try:
        return cast(dict[bytes, bytes], dict(store.items()))
    finally:
        store.close()


def difference(one: dict[bytes, bytes], other: dict[bytes, bytes]) -> list[bytes]:
    """Keys under which two stores differ."""
    return sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))


def letters(version: Version) -> list[DeadLetter]:
    """The dead letters, each once, by position."""
    return sorted(DeadLetters(version.dead_letters_path).read(), key=lambda d: (d.source, d.offset))


@dataclass
class World:
    """Two event files and one undisturbed run over them, to which others are compared."""

    home: Path
    driver: Driver
    learner: str
    n: int = 400
    every: int = 50
    kept: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.files = [str(write_events(self.home / f"{k}.jsonl", self.n, k)) for k in range(2)]
        self.made = 0
        self.undisturbed = self.version()
        self.driver.run(self.job(self.version(), warm=True))
        self.seconds = self.driver.run(self.job(self.undisturbed)).seconds
        self.expected = plain(self.undisturbed)

    def version(self) -> Version:
        """A new version that has learned nothing."""
        self.made += 1
        spec = new_spec(self.learner, {"evaluation_rate": 0.3, **LEARNERS[self.learner], **self.kept})
        return Registry(self.home).create(f"v{self.made}", spec)

    def job(self, version: Version, **how: Any) -> Job:
        """A run over the files."""
        return Job(str(version.path), self.files, every=self.every, **how)

    def finish(self, version: Version) -> None:
        """Run undisturbed to the end, and compare every key and value, and the dead letters.

        Raises:
            AssertionError: they differ from those of the run that was never killed.
        """
        self.driver.run(self.job(version))
        differing = difference(plain(version), self.expected)
        assert not differing, f"{len(differing)} keys differ, such as {differing[:5]}"
        assert letters(version) == letters(self.undisturbed)
        assert len(letters(version)) > 0

    def killed_at(self, steps: list[tuple[str, int]]) -> int:
        """A version that is killed at these (step, commit), one after the other, and then finished."""
        version, kills = self.version(), 0
        for step, commit in steps:
            kills += self.driver.run(self.job(version, step=step, commit=commit)).killed
        self.finish(version)
        return kills

    def killed_at_moments(self, random: Random, most: int) -> int:
        """A version that is killed from outside at up to `most` random moments, and then finished."""
        version, kills = self.version(), 0
        while kills < most:
            moment = random.uniform(0.0, 1.1 * self.seconds)
            if not self.driver.run(self.job(version, moment_s=moment)).killed:
                break
            kills += 1
        self.finish(version)
        return kills
