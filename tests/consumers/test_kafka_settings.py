"""The [kafka] section: kafka-python's settings under their own names, in their own types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from consumers.kafka_settings import DECIDED, _known, client_settings
from consumers.settings import describe, load_settings
from streaming.errors import SettingError


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def given(**values: str) -> dict[str, str]:
    return {f"kafka.{name}": value for name, value in values.items()}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("fetch_min_bytes", "3", 3),
        ("check_crcs", "false", False),
        ("security_protocol", "SASL_SSL", "SASL_SSL"),
        ("sasl_plain_password", "12345", "12345"),
        ("ssl_cafile", "/etc/ca.pem", "/etc/ca.pem"),
        ("api_version", "3.9", (3, 9)),
        ("receive_buffer_bytes", "65536", 65536),
    ],
)
def test_setting_of_kafka_python_comes_in_its_own_type(name: str, text: str, value: Any) -> None:
    settings = load_settings(None, None, given(bootstrap_servers="a:1,b:2", **{name: text}))
    found = client_settings(settings, KafkaConsumer)
    assert found == {"bootstrap_servers": "a:1,b:2", name: value}
    assert type(found[name]) is type(value)


def test_each_client_gets_the_settings_that_it_knows(bare: Path) -> None:
    (bare / "freshet.toml").write_text(
        '[kafka]\nbootstrap_servers = ["a:1", "b:2"]\nfetch_min_bytes = 3\nclient_id = "me"\n'
    )
    settings = load_settings(None, None, {})
    both = {"bootstrap_servers": ["a:1", "b:2"], "client_id": "me"}
    assert client_settings(settings, KafkaConsumer) == {**both, "fetch_min_bytes": 3}
    assert client_settings(settings, KafkaProducer) == both
    assert client_settings(settings, KafkaAdminClient) == both


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("fetch_min_byts", "3", 'Did you mean "fetch_min_bytes"?'),
        ("bootstrap_server", "a:1", 'Did you mean "bootstrap_servers"?'),
        ("fetch_min_bytes", "many", 'must be a whole number, got "many"'),
        ("check_crcs", "1", "must be true or false"),
        ("api_version", "new", "must be a release of Kafka"),
        ("selector", "x", "takes a Python object"),
        *((name, "x", "cannot be set: ") for name in DECIDED),
    ],
)
def test_wrong_setting_is_refused_with_its_place(name: str, text: str, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        load_settings(None, None, given(**{name: text}))
    assert str(caught.value).startswith(f"--set kafka.{name} ")
    assert said in str(caught.value)


def test_secrets_are_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hunter2"
    monkeypatch.setenv("FRESHET_KAFKA__SASL_PLAIN_PASSWORD", secret)
    secrets = given(ssl_password=secret, proxy_url=f"http://me:{secret}@proxy")
    shown = str([row for row in describe(load_settings(None, None, secrets)) if row.key.startswith("kafka.")])
    assert "sasl_plain_password" in shown and "ssl_password" in shown and secret not in shown
    with pytest.raises(SettingError) as caught:
        load_settings(None, None, given(sasl_plain_passwort=secret))
    assert secret not in str(caught.value)


def test_every_setting_of_kafka_python_is_text_number_or_known_as_an_object() -> None:
    objects = {name for name, kind in _known().items() if kind is None} - set(DECIDED)
    assert objects == {
        "key_deserializer",
        "value_deserializer",
        "default_offset_commit_callback",
        "socket_options",
        "ssl_context",
        "metric_reporters",
        "selector",
        "sasl_oauth_token_provider",
        "kafka_client",
        "api_version",
    }


def test_kafka_must_be_named_before_it_is_used() -> None:
    with pytest.raises(SettingError, match=r"kafka\.bootstrap_servers must name a Kafka"):
        client_settings(load_settings(None, None, {}), KafkaConsumer)
