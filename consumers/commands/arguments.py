"""Types of arguments that many commands take."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

Switch = Annotated[bool, Parameter(negative=())]  # without a --no- form
Why = Annotated[str, Parameter(name="--why")]
