"""A shop in front of `freshet serve`: users and events enter over HTTP, as any shop would send them."""

from __future__ import annotations

from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec

from streaming.errors import InputError

_WAIT_S = 60.0


class ServedList(NamedTuple):
    """What a user was served; `exposure` as an event may name it, None where nobody counts it."""

    version: str
    items: list[str]
    exposure: str | None


class Shop:
    """One connection to a server.

    Args:
        address: of the server, http://host:port.
        token: serve.token.
    """

    def __init__(self, address: str, token: str = "") -> None:
        self._address = address
        self._connection = HTTPConnection(urlsplit(address).netloc, timeout=_WAIT_S)
        self._headers = {"content-type": "application/json"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"

    def serve(self, user: str, k: int) -> ServedList:
        """The list that a user is served."""
        found = self._ask("GET", f"/v1/users/{quote(user, safe='')}/recommendations?k={k}")
        return ServedList(found["version"], [one["item"] for one in found["items"]], found["exposure"])

    def post(self, events: Sequence[Any]) -> None:
        """Have events taken into the log; they are durable when it returns."""
        self._ask("POST", "/v1/events", msgspec.json.encode(events))

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """The answer to a request.

        Raises:
            InputError: there is none, or it is an error.
        """
        try:
            self._connection.request(method, path, body, self._headers)
            answer = self._connection.getresponse()
            said = answer.read()
        except (OSError, HTTPException) as error:
            raise InputError(
                f"{self._address}: the server does not answer ({type(error).__name__}: {error}). Run "
                "`freshet serve` on the same home to see why."
            ) from error
        if answer.status != 200:
            raise InputError(f"{self._address}{path}: expected an answer, got {answer.status}: {said!r}.")
        return msgspec.json.decode(said)

    def __enter__(self) -> Shop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
