"""The endpoint that writes: events enter, one or a list, and are answered once durable in the event log."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from functools import partial
from typing import Any

from fastapi import Request
from prometheus_client import Counter
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from consumers.posting import BusyError, Intake, Posted, posted
from consumers.server_access import Access
from consumers.server_errors import Problem, RequestError
from consumers.server_forms import EVENTS_BODY, MOST_EVENTS, EventsForm
from consumers.server_routes import Route, decoded, reply
from streaming.rules import EventRules

_WRITE_S = 15.0  # longest wait for events to be durable
_LARGE = 32_768  # bytes of a body that is decoded beside the event loop


class Writing:
    """What the path that writes does.

    Args:
        rules: what makes a posted record an event.
        taken: counts events that became durable.
    """

    def __init__(self, intake: Intake, rules: EventRules, access: Access, taken: Counter) -> None:
        self._intake, self._rules, self._access, self._taken = intake, rules, access, taken

    def routes(self) -> list[Route]:
        """Its path."""
        errors = (401, 403, 413, 415, 422, 503, 507)
        extra = {**EVENTS_BODY, "security": [{"token": []}, {}]}
        return [Route("/v1/events", self.events, "Events", errors, "POST", extra)]

    async def events(self, request: Request) -> Response:
        """Append one event or a list of them to the event log, all or none; answered once durable."""
        self._access.check(request)
        body = await request.body()
        read = partial(self._events_of, body)
        events = await run_in_threadpool(read) if len(body) > _LARGE else read()
        await _durable(self._intake.post(events))
        self._taken.inc(len(events))
        log: Any = self._intake.log.name
        return reply(EventsForm(len(events), log))

    def _events_of(self, body: bytes) -> list[Posted]:
        """The events of a body.

        Raises:
            RequestError: one of them is none; the reason of each that is not.
        """
        found = decoded(body, Any)
        alone = not isinstance(found, list)
        records = [found] if alone else found
        if not 1 <= len(records) <= MOST_EVENTS:
            raise RequestError(
                422, f"Expected 1 to {MOST_EVENTS} events, got {len(records)}.", code="invalid"
            )
        now, own_log = time.time(), self._intake.log.name == "segments"
        events: list[Posted] = []
        problems: list[Problem] = []
        for number, record in enumerate(records):
            event: Posted | str = "an event must be an object."
            if isinstance(record, dict):
                event = posted(record, self._rules, now, own_log=own_log)
            if isinstance(event, str):
                problems.append(Problem("event" if alone else f"events[{number}]", event))
            else:
                events.append(event)
        if problems:
            first = f"{problems[0].at}: {problems[0].reason}"
            message = (
                f"{len(problems)} of {len(records)} are no events, so none was taken; the first: {first}"
            )
            raise RequestError(422, message, code="bad_event", problems=problems)
        return events


async def _durable(written: Future[None]) -> None:
    """Wait until events are durable, but not for ever.

    Raises:
        BusyError: the log has not taken them in time.
        FreshetError: it refused them.
    """
    try:
        await asyncio.wait_for(asyncio.wrap_future(written), _WRITE_S)
    except TimeoutError as error:
        raise BusyError(
            f"The events were not durable after {_WRITE_S:g} s; they may become so yet. Send them again, if "
            "they may be learned twice."
        ) from error
