"""Lines of the logs of exposures and events enter; what the joiner takes leaves, a batch at a time.

Events are decoded as workers decode them, by the same kernel. Only those of the metric become objects; the
others say how far time has gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from streaming.decoding import JsonDecoder
from streaming.events import EventBatch, Ids
from streaming.exposures import Exposure, Happening
from streaming.rules import EventRules

_NAMED = b'"exposure"'


@dataclass(frozen=True, slots=True)
class Lines:
    """N records of one source, undecoded: record k is `data[start[k]:end[k]]`.

    Attributes:
        source: as the joiner names it: `events`, or a partition as `events[3]`.
        stamps: when the log took each, milliseconds since 1970, where it says so (else below 0).
    """

    source: str
    data: NDArray[np.uint8]
    start: NDArray[np.int64]  # (N,)
    end: NDArray[np.int64]  # (N,)
    stamps: NDArray[np.int64] | None = None  # (N,)

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def of(cls, source: str, data: bytes) -> Lines:
        """The lines of a piece of a file, each with its end."""
        buffer = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(buffer == 10)
        return cls(source, buffer, np.concatenate([[0], ends[:-1] + 1]), ends)


class ReadExposures(NamedTuple):
    """Exposures of one experiment, and how many lines were none."""

    records: list[tuple[str, Exposure]]
    bad: int


class ReadEvents(NamedTuple):
    """Events since the experiment's beginning: N that count for the metric, among all M.

    Attributes:
        places: (N,) of the records among all events.
        users, ts: (M,) of all events.
        bad: lines that are no events.
        ahead: events stamped so far after the log took them that their clock must be wrong; left out, since
            all that came after them would be late.
    """

    records: list[tuple[str, Happening]]
    places: NDArray[np.intp]
    users: Ids
    ts: NDArray[np.int64]
    bad: int
    ahead: int


class _Line(msgspec.Struct, frozen=True):
    """What the join needs of an exposure's line."""

    id: str
    user: str
    experiment: str
    arm: str
    items: tuple[str, ...]
    ts: int


def read_exposures(lines: Lines, experiment: str) -> ReadExposures:
    """The exposures of an experiment; lines of other ones are passed over."""
    found: list[tuple[str, Exposure]] = []
    decode, whole, bad = msgspec.json.Decoder(_Line).decode, lines.data.tobytes(), 0
    for start, end in zip(lines.start.tolist(), lines.end.tolist(), strict=True):
        try:
            one = decode(whole[start:end])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            bad += 1
            continue
        if one.experiment == experiment:
            found.append((one.user, Exposure(one.ts, one.id, one.arm, one.items)))
    return ReadExposures(found, bad)


class EventReader:
    """Decodes events, each source in its own unit of time.

    Args:
        rules: what an event is.
        metric: type of the events that count.
        begin_us: events before it are passed over.
        ahead_us: how far an event may be stamped after the log took it, where that is known.
        units: by source, as decided in an earlier run.

    Attributes:
        units: by source, as far as they are decided; to be kept.
    """

    def __init__(
        self, rules: EventRules, metric: str, begin_us: int, ahead_us: int, units: Mapping[str, str]
    ) -> None:
        # The weight of an event says whether it is of the metric, without a look at its type from here.
        self._rules = replace(rules, weights={"*": 0.0, metric: 1.0})
        self._begin_us, self._ahead_us, self.units = begin_us, ahead_us, dict(units)
        self._decoders: dict[str, JsonDecoder] = {}
        fields = [("exposure", Any, None), ("value", Any, None)]
        named = msgspec.defstruct("Named", fields, rename={"value": rules.name("value")})
        self._named = msgspec.json.Decoder(named)

    def read(self, lines: Lines) -> ReadEvents:
        """The events of some lines."""
        decoder = self._decoders.get(lines.source)
        if decoder is None:
            unit = self.units.get(lines.source)
            decoder = self._decoders[lines.source] = JsonDecoder(self._rules, unit)
        numbers = np.arange(len(lines), dtype=np.int64)
        batch, bad = decoder.decode(lines.data, lines.start, lines.end, numbers)
        if decoder.time_unit is not None:
            self.units[lines.source] = decoder.time_unit
        ahead = self._ahead(lines, batch)
        since = np.flatnonzero((batch.ts >= self._begin_us) & ~ahead)
        users = Ids(batch.users.data, batch.users.start[since], batch.users.end[since])
        places = np.flatnonzero(batch.weights[since] == 1.0)
        whole, own = batch.users.data.tobytes(), lines.data.tobytes()
        wanted, records = since[places], []
        columns = (
            users.start[places], users.end[places], batch.items.start[wanted], batch.items.end[wanted],
            batch.ts[wanted], batch.values[wanted],
            lines.start[batch.offsets[wanted]], lines.end[batch.offsets[wanted]],
        )  # fmt: skip
        for user, user_end, item, item_end, ts, value, start, end in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            exposure = ""
            if value != 1.0 or own.find(_NAMED, start, end) >= 0:
                value, exposure = self._given(own[start:end])
            event = Happening(ts, whole[item:item_end].decode(), value, exposure)
            records.append((whole[user:user_end].decode(), event))
        return ReadEvents(records, places, users, batch.ts[since], len(bad), int(ahead.sum()))

    def _ahead(self, lines: Lines, batch: EventBatch) -> NDArray[np.bool_]:
        if lines.stamps is None:
            return np.zeros(len(batch), np.bool_)
        stamps = lines.stamps[batch.offsets]
        ahead: NDArray[np.bool_] = (stamps >= 0) & (batch.ts > stamps * 1000 + self._ahead_us)
        return ahead

    def _given(self, line: bytes) -> tuple[float, str]:
        """The value in full precision, and the exposure that the event names."""
        given: Any = self._named.decode(line)
        value = 1.0 if given.value is None else float(given.value)
        return value, given.exposure if isinstance(given.exposure, str) else ""
