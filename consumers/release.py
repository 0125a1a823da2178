"""Which release of Freshet is installed."""

from __future__ import annotations

from importlib import metadata


def release() -> str:
    """The installed release of Freshet, "unpackaged" when it runs from a bare source tree."""
    try:
        return metadata.version("freshet")
    except metadata.PackageNotFoundError:
        return "unpackaged"
