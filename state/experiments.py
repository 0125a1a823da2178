"""Which experiments there are: decisions enter, one file for each in the home directory leaves.

HOME/experiments/NAME.json holds what was asked for, and the phases: who got which version since when. A
change is read, made and written whole under a lock. The route (`state/releases.py`) is the only lever on
users; a phase notes what the route says, with the time at which it was changed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from state.durable import locked, synced, write_whole
from streaming.errors import StoreError, StoreFormatError, UsageError, VersionError, nearest
from streaming.routing import Arm, Route, route

FORMAT = 1
EXPERIMENTS = "experiments"  # the directory in a home directory
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_FRESH_NS = 100_000_000  # a directory changed so lately may change again with the same time


class Phase(msgspec.Struct, frozen=True):
    """A stretch of time with the same shares.

    Attributes:
        since_us: its beginning, microseconds since 1970.
        shares: by arm, the champion first; an arm that was taken out has 0.
        ranges: the route's arms.
    """

    since_us: int
    shares: dict[str, float]
    ranges: tuple[Arm, ...]


class Trial(msgspec.Struct, frozen=True):
    """An experiment as it was asked for, and what became of the route.

    Attributes:
        state: "starting" until the route is set.
        shares: that were asked for, by version, the champion first.
        metric: type of the events that count.
        design: what `streaming.experiments.Design` takes.
        ramp: shares of the challengers together, step by step; empty: at once.
        bandit: what decides the shares from outcomes; None: they are those that were asked for.
        floor: least share of an arm under a bandit.
        salt: of the route.
        window_us, lateness_us: as the joiner takes them.
        phases: the first begins with the experiment; the last one ends it.
        winner: the arm that was best when it was concluded.
    """

    name: str
    shares: dict[str, float]
    metric: str
    design: dict[str, Any]
    salt: str
    window_us: int
    lateness_us: int
    ramp: tuple[float, ...] = ()
    ramp_users: int = 500
    ramp_seconds: float = 0.0
    bandit: Literal["thompson", "ucb"] | None = None
    floor: float = 0.0
    state: Literal["starting", "running", "stopped", "concluded"] = "starting"
    phases: tuple[Phase, ...] = ()
    winner: str | None = None
    why: str = ""
    format: int = FORMAT

    @property
    def arms(self) -> tuple[str, ...]:
        """Versions that are compared, the champion first."""
        return tuple(self.shares)

    @property
    def ended(self) -> bool:
        """Whether it takes no users any more."""
        return self.state in ("stopped", "concluded")

    def moved(self, user: str, first_us: int, end_us: int) -> bool:
        """Whether a change of shares sent a user to another version between these times."""
        seen: set[str | None] = set()
        for phase, following in zip(self.phases, (*self.phases[1:], None), strict=True):
            over = following is not None and following.since_us <= first_us
            if not over and phase.since_us <= end_us:
                to = route(user, Route(self.salt, phase.ranges))
                seen.add(to.version if to is not None else None)
        return len(seen) > 1


class Experiments:
    """The experiments of a home directory; any process may change them."""

    def __init__(self, home: Path) -> None:
        self._directory = home / EXPERIMENTS
        self._seen: tuple[int, Trial | None] = (-1, None)

    def names(self) -> list[str]:
        """All, sorted."""
        return sorted(path.stem for path in self._directory.glob("*.json"))

    def get(self, name: str) -> Trial:
        """One experiment.

        Raises:
            VersionError: there is none of this name.
            StoreError: its file cannot be read.
        """
        names = self.names()
        if name not in names:
            raise VersionError(f'There is no experiment "{name}".{nearest(name, names)}')
        return self._read(self._path(name))

    def running(self) -> Trial | None:
        """The one that takes users now; files are read only where one was changed: costs one stat."""
        try:
            changed = self._directory.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        if self._seen[0] == changed:
            return self._seen[1]
        found = self._running()
        if time.time_ns() - changed > _FRESH_NS:
            self._seen = (changed, found)
        return found

    def create(self, trial: Trial) -> None:
        """Write a new experiment; one that was left starting is replaced.

        Raises:
            UsageError: an impossible name.
            VersionError: the name is taken, or another experiment runs.
        """
        if not _NAME.fullmatch(trial.name):
            raise UsageError(f'A name has at most 64 letters, digits, "_", ".", "-"; got "{trial.name}".')
        with self._holding():
            if trial.name in self.names() and self._read(self._path(trial.name)).state != "starting":
                raise VersionError(f'There is an experiment "{trial.name}" already. Choose another name.')
            other = self._running()
            if other is not None:
                raise VersionError(
                    f'The experiment "{other.name}" runs, and there is one route. '
                    f"`freshet experiment stop {other.name}` first."
                )
            self._write(trial)

    def change(self, name: str, **fields: Any) -> Trial:
        """Set fields of an experiment; durable when it returns."""
        with self._holding():
            made = msgspec.structs.replace(self._read(self._path(name)), **fields)
            self._write(made)
            return made

    def begin_phase(self, name: str, since_us: int, shares: Mapping[str, float], ranges: tuple[Arm, ...],
                    **fields: Any) -> Trial:  # fmt: skip
        """Note a change of the route; a phase never begins before the one that it follows."""
        with self._holding():
            before = self._read(self._path(name))
            since_us = max(since_us, before.phases[-1].since_us) if before.phases else since_us
            phases = (*before.phases, Phase(since_us, dict(shares), ranges))
            made = msgspec.structs.replace(before, phases=phases, **fields)
            self._write(made)
            return made

    @contextmanager
    def _holding(self) -> Iterator[None]:
        try:
            lock = locked(self._directory / "lock")
        except OSError as error:
            raise self._unwritable(error) from error
        with lock:
            yield

    def _running(self) -> Trial | None:
        for name in self.names():
            found = self._read(self._path(name))
            if found.state == "running":
                return found
        return None

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"

    def _write(self, trial: Trial) -> None:
        text = msgspec.json.format(msgspec.json.encode(trial), indent=1).decode()
        try:
            write_whole(self._path(trial.name), text)
            synced(self._directory)
        except OSError as error:
            raise self._unwritable(error) from error

    def _read(self, path: Path) -> Trial:
        try:
            data = path.read_bytes()
            found = msgspec.json.decode(data, type=_Format).format
            if found != FORMAT:
                raise StoreFormatError(
                    f"{path}: the experiment has format {found}, this Freshet reads and writes format "
                    f"{FORMAT}. Use the Freshet that wrote it."
                )
            return msgspec.json.decode(data, type=Trial)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StoreError(
                f"{path}: this is not an experiment ({error}). Put the file back as it was, or move it away: "
                "the route stays as it is."
            ) from error

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self._directory}: an experiment cannot be written ({error.strerror}); nothing was changed. "
            "Mend this, or name another home with --home."
        )


class _Format(msgspec.Struct):
    format: int
