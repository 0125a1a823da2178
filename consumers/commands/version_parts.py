"""How the settings of a version are given on the command line, and how times are shown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from consumers.kafka_settings import client_settings
from consumers.settings import Settings, duration
from streaming.errors import UsageError


def given_of(pairs_given: list[str]) -> dict[str, Any]:
    """key → value as text, from key=value; times as seconds.

    >>> given_of(["dimension=32", "users_live_s=2h"])
    {'dimension': '32', 'users_live_s': '7200'}
    """
    given: dict[str, Any] = {}
    for each in pairs_given:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise UsageError(f'--set must be followed by key=value, got "{each}".')
        given[key.strip()] = _seconds(value) if key.strip().endswith("_s") else value
    return given


def _seconds(text: str) -> str:
    try:
        return f"{duration(text):.0f}"
    except ValueError:
        return text  # a number of seconds, or what the spec refuses by name


def client_of(settings: Settings) -> dict[str, Any] | None:
    """Settings of Kafka's client, where a Kafka is named."""
    if not settings.kafka.bootstrap_servers:
        return None
    from kafka import KafkaConsumer  # versions of files do without

    return client_settings(settings, KafkaConsumer)


def moment_of(seconds: int) -> str | None:
    """RFC 3339.

    >>> moment_of(1_700_000_000)
    '2023-11-14T22:13:20Z'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None
