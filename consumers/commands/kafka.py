"""Settings enter; what Kafka's clients need of them leaves."""

from __future__ import annotations

from typing import Any

from consumers.settings import Settings
from streaming.errors import UsageError


def client_settings(settings: Settings) -> dict[str, Any]:
    """The settings of Kafka's clients, under kafka-python's own names.

    Raises:
        UsageError: it is not set where Kafka is.
    """
    if not settings.kafka.bootstrap_servers:
        raise UsageError(
            'It is not set where Kafka is. Set [kafka] bootstrap_servers = "host:9092" in freshet.toml, or '
            "give --set kafka.bootstrap_servers=host:9092; `freshet broker` runs one on this machine."
        )
    return {"bootstrap_servers": settings.kafka.bootstrap_servers, **settings.kafka_client}
