"""A type of argument that many commands take."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

Switch = Annotated[bool, Parameter(negative=())]  # without a --no- form
