"""Which version serves, and how that came about: decisions enter, one file of the home directory leaves.

HOME/registry.json holds the champion, what it replaced, the retired versions, the route and the
history. A change is read, made and written whole under a lock, so that it is there together with its
entry in the history or not at all, wherever the process is killed. Readers need no lock.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from state.versions import Registry
from streaming.errors import SettingError, StoreError, StoreFormatError, VersionError
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


class Releases:
    """The registry's file of a home directory; its methods that change it may be called by any process."""

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

    def promote(self, version: str, why: str = "") -> Released:
        """Make a version the champion. Arms of a route end: all users who are not overridden get it.

        Raises:
            VersionError: there is no such version, it is retired, or it is the champion already.
        """
        with self._changing() as state:
            self._must_exist(version)
            if version in state.value.retired:
                raise VersionError(
                    f'"{version}" is retired. `freshet versions retire {version} --undo` first.'
                )
            before = state.value.champion
            if before == version and not (state.value.route and state.value.route.arms):
                raise VersionError(f'"{version}" is the champion already.')
            detail = f'replaces "{before}"' if before and before != version else "is the champion"
            route, ended = _without_arms(state.value.route)
            state.change("promote", version, detail + ended, why, champion=version, route=route)
            if before and before != version:
                state.set(replaced=(*state.value.replaced, before))
            return state.value

    def rollback(self, why: str = "", *, to_none: bool = False) -> Released:
        """Make the champion that was replaced last the champion again.

        Args:
            to_none: where none was replaced, have no champion, as before the first promotion.

        Raises:
            VersionError: none was replaced, or it is gone.
        """
        with self._changing() as state:
            there = set(Registry(self._home).names())
            # A kill may have come between the removal of a version and its entry here.
            state.set(replaced=tuple(name for name in state.value.replaced if name in there))
            if state.value.champion is None or not (state.value.replaced or to_none):
                raise VersionError(
                    "No version was replaced by a promotion, so there is none to go back to. "
                    "`freshet versions rollback --to-none` leaves no champion at all."
                )
            if not state.value.replaced:
                return self._no_champion(state, why)
            *others, version = state.value.replaced
            route, ended = _without_arms(state.value.route)
            detail = f'comes back for "{state.value.champion}"{ended}'
            state.change("rollback", version, detail, why, champion=version, route=route)
            state.set(replaced=tuple(others))
            return state.value

    def _no_champion(self, state: _Draft, why: str) -> Released:
        version, route = state.value.champion, state.value.route
        if route is not None and route.holdout and not route.holdout_version:
            raise VersionError("The hold-out gets the champion. `freshet route clear` first.")
        state.change("rollback", version, "is the champion no more, and none is", why, champion=None)
        return state.value

    def retire(self, version: str, why: str = "", *, undo: bool = False) -> Released:
        """Take a version out of service for good (until `undo`): it can be neither promoted nor routed to.

        Raises:
            VersionError: there is no such version, it serves, or it is retired (not retired) already.
        """
        with self._changing() as state:
            self._must_exist(version)
            retired = state.value.retired
            if undo != (version in retired):
                raise VersionError(f'"{version}" is {"not retired" if undo else "retired already"}.')
            if undo:
                state.change("unretire", version, "may serve again", why, retired=retired - {version})
            else:
                self._must_not_serve(state.value, version, "retired")
                left = tuple(name for name in state.value.replaced if name != version)
                state.change("retire", version, "may serve no more", why, retired=retired | {version})
                state.set(replaced=left)
            return state.value

    def set_route(self, new: Route | None, detail: str, why: str = "") -> Released:
        """Put a route in the place of the present one; None takes it away.

        Raises:
            VersionError: it names a version that is not there or is retired, or there is no champion that
                users without an arm could get.
        """
        return self.change_route(lambda _: new, detail, why)

    def change_route(self, made: Callable[[Released], Route | None], detail: str, why: str = "") -> Released:
        """As `set_route`, with a function from the present state to the new route, called under the lock."""
        with self._changing() as state:
            new = made(state.value)
            for version in sorted(new.versions()) if new is not None else ():
                self._must_exist(version)
                if version in state.value.retired:
                    raise VersionError(f'"{version}" is retired and can take no users.')
            if new is not None and new.holdout and not (new.holdout_version or state.value.champion):
                raise VersionError(
                    "A hold-out gets the champion, and there is none: promote a version first."
                )
            state.change("route", None, detail, why, route=new)
            return state.value

    def override(self, user: str, version: str, why: str = "") -> Released:
        """Give a user one version, whatever the shares."""
        # Many read the history; the user's id stays out of it.
        return self.change_route(
            lambda state: _with_overrides(state.route, {user: version}), f"override of a user: {version}", why
        )

    def remove_override(self, user: str, why: str = "") -> bool:
        """Take a user's override away, so that no file here names them; whether there was one."""
        if (present := self.read().route) is None or user not in present.overrides:
            return False
        self.change_route(
            lambda state: _with_overrides(state.route, {user: None}), "override of a user: none", why
        )
        return True

    def note(self, what: str, version: str, detail: str, why: str = "") -> Released:
        """Put something that happened to a version, such as a fork, into the history."""
        with self._changing() as state:
            state.change(what, version, detail, why)
            return state.value

    @contextmanager
    def deleting(self, version: str, why: str = "") -> Iterator[None]:
        """Hold the registry while a version is removed; once it is gone, nothing here names it any more.

        Raises:
            VersionError: it serves.
        """
        with self._changing() as state:
            self._must_not_serve(state.value, version, "deleted")
            yield
            left = tuple(name for name in state.value.replaced if name != version)
            retired = state.value.retired - {version}
            state.change("delete", version, "is gone", why, replaced=left, retired=retired)

    # -- the file -------------------------------------------------------------------------------

    @contextmanager
    def _changing(self) -> Iterator[_Draft]:
        """The state under the lock; what the block made of it is written when it ends without an error."""
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            lock = (self._home / "registry.lock").open("a")
        except OSError as error:
            raise self._unwritable(error) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            draft = _Draft(self._read()[1])
            yield draft
            try:
                self._write(draft.value)
            except OSError as error:
                raise self._unwritable(error) from error

    def _write(self, value: Released) -> None:
        half = self._home / ".registry.json.new"  # one at a time: the lock is held
        with half.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        half.replace(self._path)
        directory = os.open(self._home, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

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

    def _must_exist(self, version: str) -> None:
        Registry(self._home).path_of(version)

    def _must_not_serve(self, state: Released, version: str, what: str) -> None:
        if version == state.champion:
            raise VersionError(
                f'"{version}" is the champion and cannot be {what}. Promote another version first.'
            )
        if state.serves(version):
            raise VersionError(
                f'"{version}" takes users by the route and cannot be {what}. See `freshet route show`; '
                "`freshet route set` without it, or `freshet route clear`."
            )


class _Draft:
    """A state that is being changed."""

    def __init__(self, value: Released) -> None:
        self.value = value

    def set(self, **fields: Any) -> None:
        self.value = msgspec.structs.replace(self.value, **fields)

    def change(self, what: str, version: str | None, detail: str, why: str, **fields: Any) -> None:
        """Set fields, and put that into the history."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entry = Change(at, what, version, detail, why, _who(), os.getpid())
        self.set(history=(*self.value.history, entry)[-_KEPT:], **fields)


class _Format(msgspec.Struct):
    format: int


def _key(status: os.stat_result) -> tuple[int, int, int]:
    """Another one for each file that takes the registry's place."""
    return status.st_mtime_ns, status.st_ino, status.st_size


def _without_arms(present: Route | None) -> tuple[Route | None, str]:
    """A route that leaves all users without an override to the champion, and the words that say so."""
    if present is None or not present.arms:
        return present, ""
    kept = Route(present.salt, overrides=present.overrides) if present.overrides else None
    return kept, "; the route's arms end"


def _with_overrides(present: Route | None, given: Mapping[str, str | None]) -> Route | None:
    """A route with other overrides; None takes one away."""
    before = present or Route("")
    merged = {**before.overrides, **given}
    kept = {user: version for user, version in merged.items() if version is not None}
    return msgspec.structs.replace(before, overrides=kept) if before.arms or kept else None


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
