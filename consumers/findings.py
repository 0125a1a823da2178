"""What a check of `freshet doctor` found."""

from __future__ import annotations

from msgspec import Struct


class Finding(Struct, frozen=True):
    """What one check found; `remedy` is empty where all is well."""

    check: str
    ok: bool
    detail: str
    remedy: str = ""
