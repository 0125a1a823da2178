from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from consumers.commands.config import example_file
from consumers.event_rules import event_rules
from consumers.settings import (
    KEYS,
    Settings,
    describe,
    duration,
    environment_name,
    load_settings,
)
from consumers.settings.description import shown
from streaming.errors import SettingError
from streaming.rules import EventRules

EXAMPLE = Path(__file__).parents[2] / "deploy" / "freshet.toml"


def load(**overrides: str) -> Settings:
    return load_settings(None, None, {key.replace("__", "."): text for key, text in overrides.items()})


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_defaults_hold_where_nothing_is_set(bare: Path) -> None:
    settings = load()
    assert settings == Settings()
    assert settings.worker.commit_interval_min == 0.25
    assert {row.source for row in describe(settings)} == {"default"}
    assert event_rules(settings) == EventRules()


def test_later_layers_win_key_by_key(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(
        bare / "freshet.toml",
        "[worker]\nbatch_events = 10\nuser_cache = 20\nsnapshots_kept = 2\n[events.weights]\nview = 0.2\n"
        "buy = 1\n",
    )
    monkeypatch.setenv("FRESHET_WORKER__USER_CACHE", "2_000")
    monkeypatch.setenv("FRESHET_WORKER__SNAPSHOTS_KEPT", "3")
    monkeypatch.setenv("FRESHET_EVENTS__WEIGHTS", "{ buy = 2 }")
    settings = load_settings(None, None, {"worker.snapshots_kept": "4", "events.weights.a.b": ".5"})
    assert (settings.worker.batch_events, settings.worker.user_cache) == (10, 2000)
    assert settings.worker.snapshots_kept == 4
    assert settings.events.weights == {"*": 1.0, "view": 0.2, "buy": 2.0, "a.b": 0.5}
    source = {row.key: row.source for row in describe(settings)}
    assert source["worker.batch_events"] == str(file.name)
    assert source["worker.user_cache"] == "FRESHET_WORKER__USER_CACHE"
    assert source["worker.snapshots_kept"] == "--set"
    assert source["events.weights"] == "freshet.toml, FRESHET_EVENTS__WEIGHTS, --set"


def test_config_file_is_found_in_documented_order(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> int:
        return load_settings(None, bare / "h", {}).worker.batch_events

    write(bare / "h" / "freshet.toml", "[worker]\nbatch_events = 1")
    assert found() == 1
    write(bare / "freshet.toml", "[worker]\nbatch_events = 2")
    assert found() == 2
    monkeypatch.setenv("FRESHET_CONFIG", str(write(bare / "three.toml", "[worker]\nbatch_events = 3")))
    assert found() == 3
    named = write(bare / "four.toml", "[worker]\nbatch_events = 4")
    settings = load_settings(named, None, {})
    assert (settings.worker.batch_events, settings.config) == (4, named)


def test_home_comes_from_flag_then_environment_then_file(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(bare / "freshet.toml", 'home = "~/of-file"')
    assert load().home == Path.home() / "of-file"
    monkeypatch.setenv("FRESHET_HOME", "of-environment")
    assert load().home == Path("of-environment")
    settings = load_settings(None, Path("of-flag"), {})
    assert settings.home == Path("of-flag")
    assert describe(settings)[0].source == "--home"


def test_home_named_in_a_file_found_through_the_home_is_refused(bare: Path) -> None:
    write(bare / "freshet-home" / "freshet.toml", 'home = "elsewhere"')
    with pytest.raises(
        SettingError, match=r"freshet\.toml:home must be the directory that the file was found in"
    ):
        load()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86400), ("1.5 s", 1.5)],
)
def test_duration_is_read_in_every_unit(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("value", ["2", "2.0", "2s", "2000ms"])
def test_interval_is_taken_as_number_or_text(bare: Path, value: str) -> None:
    assert load(worker__commit_interval_max=value).worker.commit_interval_max == 2.0


def test_metrics_port_none_turns_the_page_off(bare: Path) -> None:
    settings = load(worker__metrics_port="none")
    assert settings.worker.metrics_port is None
    assert {row.key: row.value for row in describe(settings)}["worker.metrics_port"] == "none"


BAD_VALUES = [
    ("worker.batch_events", "0", "a whole number, at least 1"),
    ("worker.batch_events", "-4", "a whole number, at least 1"),
    ("worker.batch_events", "1.5", "a whole number"),
    ("worker.batch_events", "true", "a whole number"),
    ("worker.batch_events", "many", 'got "many"'),
    ("worker.batch_events", "1\nuser_cache = 3", "a whole number"),
    ("worker.user_cache", "0", "at least 1"),
    ("worker.snapshots_kept", "0", "at least 1"),
    ("worker.commit_share", "0", "above 0, at most 1"),
    ("worker.commit_share", "1.1", "above 0, at most 1"),
    ("worker.commit_share", "nan", "above 0, at most 1"),
    ("worker.commit_interval_max", "-1", "a duration"),
    ("worker.commit_interval_max", "inf", "a duration"),
    ("worker.commit_interval_max", "10 weeks", "a duration"),
    ("worker.commit_interval_max", "true", "a duration"),
    ("worker.commit_interval_max", "1ms", "at least worker.commit_interval_min"),
    ("events.exposures_topic", "events", 'events.topic are both "events"'),
    ("events.topic", "exposures", 'events.topic are both "exposures"'),
    ("items.topic", "exposures", 'items.topic are both "exposures"'),
    ("worker.commit_interval_min", "1h", "at least worker.commit_interval_min"),
    ("worker.metrics_port", "65536", "a port from 0 to 65535"),
    ("worker.metrics_port", "true", "a port from 0 to 65535"),
    ("worker.log_level", "warn", 'Did you mean "warning"?'),
    ("events.on_bad_record", "stopp", 'Did you mean "stop"?'),
    ("events.max_id_bytes", "0", "at least 1"),
    ("events.fields.user", "", "text that is not empty"),
    ("events.fields.user", "item", "must differ"),
    ("events.weights.view", "nan", "view must be a number"),
    ("events.weights.view", "inf", "view must be a number"),
    ("events.weights", "1", "a table of event type to number"),
    ("events.weights", "{ view = 'x' }", "a table of event type to number"),
]


@pytest.mark.parametrize(("key", "text", "said"), BAD_VALUES)
def test_impossible_value_is_refused_in_flag_with_key_and_expectation(
    bare: Path, key: str, text: str, said: str
) -> None:
    with pytest.raises(SettingError) as caught:
        load_settings(None, None, {key: text})
    assert str(caught.value).startswith(f"--set {key}")
    assert said in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(("key", "text", "said"), [bad for bad in BAD_VALUES if bad[0] in KEYS])
def test_impossible_value_is_refused_in_environment_with_variable(
    bare: Path, monkeypatch: pytest.MonkeyPatch, key: str, text: str, said: str
) -> None:
    monkeypatch.setenv(environment_name(key), text)
    with pytest.raises(SettingError) as caught:
        load()
    assert str(caught.value).startswith(environment_name(key))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[worker]\nbatch_event = 3",
            'freshet.toml:worker.batch_event is not a setting. Did you mean "worker.batch',
        ),
        ("[workr]\nbatch_events = 3", 'Did you mean "worker"?'),
        ("batch_events = 3", 'Did you mean "worker.batch_events"?'),
        (
            "[worker]\nbatch_events = '3'",
            "freshet.toml:worker.batch_events must be a whole number, at least 1",
        ),
        ("[worker]\nbatch_events = 3.0", "freshet.toml:worker.batch_events must be a whole number"),
        ("[worker]\ncommit_share = nan", "freshet.toml:worker.commit_share must be a number"),
        (
            "[events.fields]\nuser = 7",
            "freshet.toml:events.fields.user must be text that is not empty, got 7",
        ),
        ("[events.weights]\nview = '1'", "freshet.toml:events.weights must be a table"),
        ("worker = 3", "freshet.toml:worker must be a section, as in [worker], got 3"),
        ("home = ''", "freshet.toml:home must be text that is not empty"),
        ("config = 'x'", "freshet.toml:config is not a setting"),
        ("[worker", "freshet.toml must be TOML in UTF-8"),
    ],
)
def test_wrong_file_is_refused_with_file_and_key(bare: Path, text: str, said: str) -> None:
    write(bare / "freshet.toml", text)
    with pytest.raises(SettingError) as caught:
        load()
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_file_that_is_not_there_is_refused_when_named(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match=r"--config must name a TOML file, got no\.toml"):
        load_settings(Path("no.toml"), None, {})
    monkeypatch.setenv("FRESHET_CONFIG", "no.toml")
    with pytest.raises(SettingError, match="FRESHET_CONFIG must name a TOML file"):
        load()


def test_unknown_variable_is_refused_with_nearest(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_EVENTS__ON_BAD_RECORDS", "stop")
    with pytest.raises(SettingError, match='Did you mean "FRESHET_EVENTS__ON_BAD_RECORD"'):
        load()


@pytest.mark.parametrize("variable", ["FRESHET_DATA", "FRESHET_TEST_SEED", "FRESHET_CRASH_STEP"])
def test_variables_of_tests_are_left_alone(
    bare: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "x")
    assert load() == Settings()


@pytest.mark.parametrize("variable", ["FRESHET_HOME", "FRESHET_CONFIG"])
def test_empty_path_in_environment_is_refused(
    bare: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "")
    with pytest.raises(SettingError, match=f"{variable} must be a path"):
        load()


def test_every_key_can_be_set_to_its_default_in_every_layer(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(bare / "freshet.toml", example_file())
    for row in describe(Settings()):
        text = "{ '*' = 1 }" if isinstance(row.value, dict) else str(row.value)
        monkeypatch.setenv("FRESHET_HOME" if row.key == "home" else environment_name(row.key), text)
        assert load_settings(None, None, {row.key: text}).worker == Settings().worker
    assert "default" not in {row.source for row in describe(load())}


def test_example_file_lists_every_key_with_its_default_and_doc(bare: Path) -> None:
    text = EXAMPLE.read_text()
    assert text == example_file(), "write it anew: freshet config --example > deploy/freshet.toml"
    tree = tomllib.loads(text)
    for row in describe(Settings()):
        value = tree
        for part in row.key.split("."):
            value = value[part]
        assert value == row.value
        assert text.count(f"# {row.doc}\n") == 1
    assert msgspec.structs.asdict(load_settings(EXAMPLE, None, {}).worker) == msgspec.structs.asdict(
        Settings().worker
    )


def test_secret_is_redacted_by_its_name() -> None:
    assert shown("kafka.sasl_plain_password", "hunter2", "") == "***"
    assert shown("kafka.client_id", "me", "") == "me"
