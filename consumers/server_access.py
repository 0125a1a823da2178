"""Who may write through the server: a request enters, and is refused or not."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from fastapi import Request

from consumers.server_errors import JSON, RequestError

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Access:
    """Who may write.

    Attributes:
        token: what a writing request carries as a bearer token; empty: it must come from this machine,
            and from no other site's page.
        host: the address that the server listens on.
    """

    token: str = ""
    host: str = "127.0.0.1"

    def check(self, request: Request) -> None:
        """Refuse a writing request.

        Raises:
            RequestError: 401 without the token, 403 from another site, 415 where the body is not JSON.
        """
        headers = request.headers
        if self.token:
            given = headers.get("authorization", "").encode()
            if not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
                raise RequestError(
                    401,
                    "Writing needs the header `authorization: Bearer …` with the token that is serve.token.",
                    code="unauthorized",
                    headers={"www-authenticate": "Bearer"},
                )
        else:
            # A page of another site may reach this machine through its visitor's browser.
            origin, host = headers.get("origin"), headers.get("host", "")
            if request.url.hostname not in _LOCAL | {self.host} or origin not in (
                None,
                f"http://{host}",
                f"https://{host}",
            ):
                raise RequestError(403, "Events are taken from this machine and its own pages alone.",
                                   code="forbidden")  # fmt: skip
        if headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            raise RequestError(415, f"The body must be JSON: send the header `content-type: {JSON}`.")
