"""The `[kafka]` section: kafka-python's own settings enter under their own names, checked; clients get them.

kafka-python's consumer says which settings there are and of which type. It is imported only where one
of them is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from streaming.errors import SettingError, nearest

if TYPE_CHECKING:
    from consumers.settings import Settings

# What the worker decides, and why it may not be otherwise.
DECIDED = {
    "group_id": "it is freshet.VERSION",
    "group_instance_id": "the worker reads all partitions",
    "partition_assignment_strategy": "the worker reads all partitions",
    "auto_offset_reset": "--start and --on-lost-offsets say where to read",
    "enable_auto_commit": "the store holds the offsets",
    "auto_commit_interval_ms": "the store holds the offsets",
    "max_poll_records": "worker.batch_events says how much is read at a time",
    "consumer_timeout_ms": "the worker waits for records",
}
# Types of the settings whose default is None.
_TYPES: Mapping[str, type] = {
    "receive_buffer_bytes": int,
    "send_buffer_bytes": int,
    "ssl_cafile": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_crlfile": str,
    "ssl_password": str,
    "ssl_ciphers": str,
    "sasl_mechanism": str,
    "sasl_plain_username": str,
    "sasl_plain_password": str,
    "sasl_kerberos_name": str,
    "sasl_kerberos_domain_name": str,
    "proxy_url": str,
    "socks5_proxy": str,
}
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def client_setting(name: str, value: Any, place: str, quoted: str) -> Any:
    """A value of `[kafka]` as kafka-python wants it.

    Args:
        name: of the setting, without the section.
        value: as TOML gives it, or as text from the environment or a flag.
        place: where it was found, for messages.
        quoted: the value for messages; a secret must not stand in it.

    Raises:
        SettingError: kafka-python has no such setting, it has another type, or the worker decides it.
    """
    known = _known()
    if name in DECIDED:
        raise SettingError(f"{place} cannot be set: {DECIDED[name]}. Leave it out.")
    if name not in known:
        near = nearest(name, [*known, "bootstrap_servers"])
        raise SettingError(f"{place} is not a setting of kafka-python's KafkaConsumer.{near}")
    if name == "api_version":
        return _release(value, place, quoted)
    kind = known[name]
    if kind is None:
        raise SettingError(f"{place} takes a Python object, so it cannot be set. Leave it out.")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # a password of digits, from the environment
    if type(value) is not kind:
        raise SettingError(f"{place} must be {_WORDS[kind]}, got {quoted}.")
    return value


def client_settings(settings: Settings, client: type) -> dict[str, Any]:
    """The settings for one of kafka-python's clients: those of `[kafka]` that it knows.

    Args:
        client: KafkaConsumer, KafkaProducer or KafkaAdminClient.

    Raises:
        SettingError: `kafka.bootstrap_servers` is not set.
    """
    if not settings.kafka.bootstrap_servers:
        raise SettingError(
            'kafka.bootstrap_servers must name a Kafka, such as "localhost:9092"; it is not set. '
            "`freshet broker` starts one for development."
        )
    known = client.DEFAULT_CONFIG  # type: ignore[attr-defined]
    given = {name: value for name, value in settings.kafka_client.items() if name in known}
    return {"bootstrap_servers": settings.kafka.bootstrap_servers, **given}


def is_text(name: str) -> bool:
    """Whether a setting is text by its type, so that "1" is no number."""
    return _known().get(name) is str


def _known() -> dict[str, type | None]:
    """Settings of kafka-python's consumer → type, None for Python objects."""
    from kafka import KafkaConsumer

    return {
        name: _TYPES.get(name) if default is None else _type_of(default)
        for name, default in KafkaConsumer.DEFAULT_CONFIG.items()
    }


def _type_of(default: object) -> type | None:
    return type(default) if type(default) in _WORDS else None


def _release(value: Any, place: str, quoted: str) -> tuple[int, ...]:
    parts = value if isinstance(value, list) else str(value).split(".")
    try:
        return tuple(int(part) for part in parts)
    except ValueError:
        raise SettingError(f'{place} must be a release of Kafka such as "3.9", got {quoted}.') from None
