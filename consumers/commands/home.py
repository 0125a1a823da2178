"""The settings of this run enter; the versions of its home directory leave, and which of them serves."""

from __future__ import annotations

from consumers.commands.context import current_settings
from state.releases import Releases
from state.versions import Registry


def registry() -> Registry:
    """The versions of the home."""
    return Registry(current_settings().home)


def releases() -> Releases:
    """Which version serves in the home."""
    return Releases(current_settings().home)
