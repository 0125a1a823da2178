"""Events in columns enter; rows that tests can compare leave."""

from __future__ import annotations

from streaming.events import EventBatch

Row = tuple[int, str, str, int, float, float]


def rows_of(events: EventBatch) -> list[Row]:
    """(offset, user, item, ts, value, weight) of each event."""
    return [
        (
            int(events.offsets[k]),
            events.users[k],
            events.items[k],
            int(events.ts[k]),
            float(events.values[k]),
            float(events.weights[k]),
        )
        for k in range(len(events))
    ]
