"""Settings of kafka-python enter; a consumer that has found its Kafka leaves."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import structlog
from kafka import KafkaConsumer
from kafka import errors as kafka_errors

from streaming.errors import BrokerError, UsageError

logger = structlog.get_logger()

# What suits a worker unless the settings say otherwise.
_UNLESS_SET: Mapping[str, Any] = {
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "metadata_max_age_ms": 30_000,  # so long a new partition may wait
    "reconnect_backoff_max_ms": 2_000,
    "metrics_enabled": False,
}
# The store holds the offsets, so Kafka may choose none.
_ALWAYS: Mapping[str, Any] = {"enable_auto_commit": False, "auto_offset_reset": "none"}


class _DebugLog(logging.Handler):
    """Takes kafka-python's warnings: what an operator must know of them is said by the worker itself."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record to the debug log."""
        logger.debug("kafka_client", module=record.name, message=record.getMessage())


_debug_log = _DebugLog(logging.WARNING)


def connected(client: Mapping[str, Any], group: str | None = None) -> KafkaConsumer:
    """A consumer that has found its Kafka, and reads nothing yet.

    Args:
        client: settings of kafka-python's consumer, `bootstrap_servers` among them.
        group: whose offsets it may write.

    Raises:
        BrokerError: Kafka cannot be reached.
        UsageError: the settings fit neither each other nor this Kafka.
    """
    logging.getLogger("kafka").addHandler(_debug_log)  # once, however often
    try:
        return KafkaConsumer(**{**_UNLESS_SET, **client, **_ALWAYS, "group_id": group})
    except (kafka_errors.KafkaConfigurationError, ValueError, OSError) as error:
        raise UsageError(f"[kafka] cannot be used: {error}. Correct the settings.") from error
    except kafka_errors.KafkaError as error:
        # After a refused login or handshake Kafka closes the connection, often before its answer was read.
        how = client.get("security_protocol", "PLAINTEXT")
        secure = "" if how == "PLAINTEXT" else f" and lets this client in by {how} with what [kafka] gives"
        raise BrokerError(
            f"Kafka at {client['bootstrap_servers']} cannot be reached: {type(error).__name__}: {error}. "
            f"Check that it runs{secure} and that kafka.bootstrap_servers names it; `freshet broker` starts "
            "one for development."
        ) from error
