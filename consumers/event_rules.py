"""The settings of events enter; the rules by which records become events leave."""

from __future__ import annotations

from dataclasses import asdict

import msgspec

from consumers.settings import Settings
from state.ledger import as_json
from streaming.rules import EventRules


def event_rules(settings: Settings) -> EventRules:
    """The rules by which records become events, as set."""
    events = settings.events
    return EventRules(
        fields=msgspec.to_builtins(events.fields),
        weights=events.weights,
        time_unit=events.time_unit,
        max_record_bytes=events.max_record_bytes,
        max_id_bytes=events.max_id_bytes,
    )


def rules_text(rules: EventRules) -> str:
    """The rules as canonical text, to be kept beside what was learned by them."""
    return as_json(asdict(rules)).decode()
