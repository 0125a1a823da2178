"""Two of river's drift detectors leave; nothing enters.

`river.drift` as a whole imports scipy.stats for another detector, and data sets: two seconds of a worker's
start. So its modules are imported one by one.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_PACKAGE = "river.drift"


def _module(name: str) -> ModuleType:
    """A module of `river.drift`, without what the package's own `__init__` imports."""
    spec = find_spec(_PACKAGE)
    if _PACKAGE in sys.modules or spec is None:
        return import_module(f"{_PACKAGE}.{name}")
    sys.modules[_PACKAGE] = module_from_spec(spec)  # has a path, and is not executed
    try:
        return import_module(f"{_PACKAGE}.{name}")
    finally:
        del sys.modules[_PACKAGE]  # whoever imports the package gets the whole of it


# river has no types.
ADWIN: Any = _module("adwin").ADWIN
PageHinkley: Any = _module("page_hinkley").PageHinkley
