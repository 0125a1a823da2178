"""The file in which a home directory says which version serves whom: states are read from it, changes leave.

HOME/registry.json holds the champion, what it replaced, the retired versions, the route and the
history. A change is read, made and written whole under a lock, so that it is there together with its
entry in the history or not at all, wherever the process is killed. Readers need no lock.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from state.durable import locked, synced, write_whole
from streaming.errors import SettingError, StoreError, StoreFormatError
from streaming.routing import Route, route

FORMAT = 1
_KEPT = 10_000  # entries of the history


class Change(msgspec.Struct, frozen=True):
    """A decision.

    Attributes:
        at: RFC 3339, UTC.
        what: promote, rollback, retire, delete, fork, route …
        version: whom it was about; None for a change of the route.
        detail: what it did, in words.
        why: the reason that was given.
        who: user and machine.
    """

    at: str
    what: str
    version: str | None
    detail: str
    why: str
    who: str
    pid: int


class Released(msgspec.Struct, frozen=True):
    """The state of a home: which version serves whom.

    Attributes:
        champion: the promoted version.
        replaced: champions before it, the newest last; rollback goes back to that one.
        history: changes, the oldest first; the newest 10,000.
    """

    format: int = FORMAT
    champion: str | None = None
    replaced: tuple[str, ...] = ()
    retired: frozenset[str] = frozenset()
    route: Route | None = None
    history: tuple[Change, ...] = ()

    def serves(self, version: str) -> bool:
        """Whether users get answers of a version: it is the champion, or the route names it."""
        return version == self.champion or (self.route is not None and version in self.route.versions())

    def assign(self, user: str) -> Assigned | None:
        """The version that answers a user, and why; None where there is neither champion nor route."""
        routed = route(user, self.route) if self.route is not None else None
        if routed is None:
            return Assigned(self.champion, "champion") if self.champion is not None else None
        version = routed.version or self.champion
        return Assigned(version, routed.by) if version is not None else None


class Assigned(NamedTuple):
    """The version that answers a user, and why it is this one.

    An experiment counts those of "share"; users of "holdout" are compared with all of them together.
    """

    version: str
    by: Literal["champion", "override", "holdout", "share"]


class Draft:
    """A state that is being changed."""

    def __init__(self, value: Released) -> None:
        self.value = value

    def set(self, **fields: Any) -> None:
        """Set fields of the state."""
        self.value = msgspec.structs.replace(self.value, **fields)

    def change(self, what: str, version: str | None, detail: str, why: str, **fields: Any) -> None:
        """Set fields, and put that into the history."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entry = Change(at, what, version, detail, why, _who(), os.getpid())
        self.set(history=(*self.value.history, entry)[-_KEPT:], **fields)


class ReleaseFile:
    """The registry's file of a home directory; any process may read it and, under its lock, change it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._path = home / "registry.json"
        self._seen: tuple[tuple[int, int, int], Released] | None = None

    def read(self) -> Released:
        """What the file says now.

        Raises:
            StoreError: it cannot be read, or is not such a file.
            StoreFormatError: it was written by another format of Freshet.
        """
        return self._read()[1]

    def current(self) -> Released:
        """The same, parsed only where the file was changed since the last call: costs one stat."""
        try:
            key = _key(self._path.stat())
        except FileNotFoundError:
            return Released()
        except OSError as error:
            raise self._unreadable(error) from error
        seen = self._seen
        if seen is None or seen[0] != key:
            self._seen = seen = self._read()
        return seen[1]

    @contextmanager
    def changing(self) -> Iterator[Draft]:
        """The state under the lock; what the block made of it is written when it ends without an error."""
        try:
            lock = locked(self._home / "registry.lock")
        except OSError as error:
            raise self._unwritable(error) from error
        with lock:
            draft = Draft(self._read()[1])
            yield draft
            try:
                text = msgspec.json.format(msgspec.json.encode(draft.value), indent=1).decode()
                write_whole(self._path, text)
                synced(self._home)
            except OSError as error:
                raise self._unwritable(error) from error

    def _read(self) -> tuple[tuple[int, int, int], Released]:
        try:
            with self._path.open("rb") as file:
                key, data = _key(os.fstat(file.fileno())), file.read()
        except FileNotFoundError:
            return (0, 0, 0), Released()
        except OSError as error:
            raise self._unreadable(error) from error
        try:
            found = msgspec.json.decode(data, type=_Format).format
            if found != FORMAT:
                raise StoreFormatError(
                    f"{self._path}: the registry has format {found}, this Freshet reads and writes format "
                    f"{FORMAT}. Use the Freshet that wrote it."
                )
            return key, msgspec.json.decode(data, type=Released)
        except (msgspec.MsgspecError, UnicodeDecodeError, SettingError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> StoreError:
        return StoreError(
            f"{self._path}: this is not the registry of a home ({error}). Put the file back as it was, or "
            "move it away: versions lose nothing, but must be promoted and routed to again."
        )

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self._path}: the registry cannot be written ({error.strerror}); nothing was changed. "
            "Mend this, or name another home with --home."
        )


class _Format(msgspec.Struct):
    format: int


def _key(status: os.stat_result) -> tuple[int, int, int]:
    """Another one for each file that takes the registry's place."""
    return status.st_mtime_ns, status.st_ino, status.st_size


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
