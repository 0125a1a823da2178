"""Which version serves, and how that came about: decisions enter, the registry's file changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from state.release_file import Draft, Released, ReleaseFile
from state.versions import Registry
from streaming.errors import VersionError
from streaming.routing import Route


class Releases(ReleaseFile):
    """The decisions over a home directory; any process may make them."""

    def promote(self, version: str, why: str = "") -> Released:
        """Make a version the champion. Arms of a route end: all users who are not overridden get it.

        Raises:
            VersionError: there is no such version, it is retired, or it is the champion already.
        """
        with self.changing() as state:
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
        with self.changing() as state:
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

    def _no_champion(self, state: Draft, why: str) -> Released:
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
        with self.changing() as state:
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
        with self.changing() as state:
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
        with self.changing() as state:
            state.change(what, version, detail, why)
            return state.value

    @contextmanager
    def deleting(self, version: str, why: str = "") -> Iterator[None]:
        """Hold the registry while a version is removed; once it is gone, nothing here names it any more.

        Raises:
            VersionError: it serves.
        """
        with self.changing() as state:
            self._must_not_serve(state.value, version, "deleted")
            yield
            left = tuple(name for name in state.value.replaced if name != version)
            retired = state.value.retired - {version}
            state.change("delete", version, "is gone", why, replaced=left, retired=retired)

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
