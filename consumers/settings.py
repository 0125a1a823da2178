"""Settings: one TOML file, the environment and flags enter; one checked, frozen `Settings` leaves.

Later layers win, key by key: defaults, file, environment, flags. A setting is
`section.key` in a file and with `--set`, `FRESHET_SECTION__KEY` in the environment.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from consumers import kafka_settings
from streaming.errors import SettingError, nearest

DEFAULT_HOME = Path("freshet-home")
CONFIG_NAME = "freshet.toml"
PREFIX = "FRESHET_"
_FOREIGN = re.compile(r"FRESHET_(HOME|CONFIG|DATA|TEST_.*|CRASH_.*)")
_SECRET = re.compile(r"passw|secret|token|credential|api_?key|private_?key|proxy", re.IGNORECASE)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*")

FieldName = Annotated[str, Meta(min_length=1)]
Finite = Annotated[float, Meta(ge=-1e9, le=1e9)]


def duration_form(description: str) -> Meta:
    """Marks seconds that may also be written as text with a unit."""
    return Meta(ge=0, le=1e9, description=description, extra={"form": "duration"})


class EventFields(Struct, frozen=True, forbid_unknown_fields=True):
    """Names under which a record of the event log holds what Freshet reads."""

    user: Annotated[FieldName, Meta(description="Name of the field with the user's id.")] = "user"
    item: Annotated[FieldName, Meta(description="Name of the field with the item's id.")] = "item"
    ts: Annotated[FieldName, Meta(description="Name of the field with the event's time.")] = "ts"
    type: Annotated[
        FieldName, Meta(description="Name of the field with the event's type; may be absent.")
    ] = "type"
    value: Annotated[
        FieldName, Meta(description="Name of the field with a rating or an amount; may be absent, then 1.")
    ] = "value"


class EventSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How records become events."""

    fields: EventFields = EventFields()
    weights: Annotated[
        dict[str, Finite],
        Meta(
            description="Weight of each event type in learning, below 0 for negative feedback; "
            '"*" is the weight of every type not named.'
        ),
    ] = msgspec.field(default_factory=lambda: {"*": 1.0})
    topic: Annotated[
        FieldName, Meta(description="Kafka topic that the events are read from, keyed by user.")
    ] = "events"
    time_unit: Annotated[
        Literal["auto", "s", "ms", "us"],
        Meta(description="Unit of times given as numbers; auto finds it from the first events and says so."),
    ] = "auto"
    on_bad_record: Annotated[
        Literal["dead_letter", "stop"],
        Meta(description="Whether a record that is no event goes to the dead letters or stops the worker."),
    ] = "dead_letter"
    max_record_bytes: Annotated[
        int, Meta(ge=64, le=2**30, description="Longest record in bytes; a longer one is a bad record.")
    ] = 1_048_576
    max_id_bytes: Annotated[
        int, Meta(ge=1, le=4096, description="Longest id in bytes of UTF-8; a longer one makes a bad record.")
    ] = 256


class ItemFields(Struct, frozen=True, forbid_unknown_fields=True):
    """Names under which a record of the catalogue holds what Freshet reads; its other fields are features."""

    item: Annotated[FieldName, Meta(description="Name of the field with the listed item's id.")] = "item"
    available: Annotated[
        FieldName, Meta(description="Name of the field that says whether it may be served; absent: it may.")
    ] = "available"
    categories: Annotated[
        FieldName, Meta(description="Name of the field with the item's categories; may be absent.")
    ] = "categories"
    features: Annotated[
        FieldName, Meta(description="Name of the field with features by name; may be absent.")
    ] = "features"


class ItemSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The catalogue: which items may be served."""

    fields: ItemFields = ItemFields()
    file: Annotated[
        str,
        Meta(
            description="File of the catalogue (JSON lines, CSV, TSV, parquet), read again when it changes; "
            "empty: none."
        ),
    ] = ""
    topic: Annotated[
        str,
        Meta(description="Compacted Kafka topic of the catalogue, keyed by the item's id; empty: none."),
    ] = ""
    unlisted: Annotated[
        Literal["hide", "serve"],
        Meta(description="Whether items that a version knows and the catalogue does not list are served."),
    ] = "hide"


class WorkerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How a worker learns, commits and reports."""

    batch_events: Annotated[
        int,
        Meta(ge=1, le=10_000_000, description="Events read at a time; changes the speed, never the result."),
    ] = 4096
    user_cache: Annotated[
        int, Meta(ge=1, le=1_000_000_000, description="Users held in memory; the others wait in the store.")
    ] = 100_000
    commit_interval_min: Annotated[
        float, duration_form("Shortest time between commits; 0 lets every batch be followed by a commit.")
    ] = 0.25
    commit_interval_max: Annotated[float, duration_form("Longest time between commits.")] = 30.0
    commit_share: Annotated[
        float, Meta(gt=0, le=1, description="Most of the worker's time that commits may take, as a share.")
    ] = 0.1
    snapshots_kept: Annotated[
        int, Meta(ge=1, le=10_000, description="Snapshots kept of a version; the oldest one goes first.")
    ] = 5
    live_tables: Annotated[
        Literal["auto", "home", "off"],
        Meta(
            description="Where the tables lie by which servers see each event at once: in shared memory "
            "(with room in it), in the home (for servers in other containers), or nowhere."
        ),
    ] = "auto"
    metrics_host: Annotated[
        FieldName, Meta(description="Address of the metrics page; 0.0.0.0 lets other machines read it.")
    ] = "127.0.0.1"
    metrics_port: Annotated[
        int | None,
        Meta(
            description='Port of the metrics page, or the next free one; 0 is any, "none" serves no page.',
            extra={"form": "port"},
        ),
    ] = 0
    log_format: Annotated[
        Literal["auto", "console", "json"],
        Meta(description="Form of the log on standard error; auto is console on a terminal, JSON otherwise."),
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Least severe log entry that is written."),
    ] = "info"


class ServeSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where and how the server answers."""

    host: Annotated[
        FieldName,
        Meta(description="Address that the server listens on; beyond this machine it needs serve.token."),
    ] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65_535, description="Port of the server; 0 is any free port, which it prints.")
    ] = 8000
    token: Annotated[
        str,
        Meta(description="Secret that writing requests carry as a bearer token; empty: none is needed."),
    ] = ""
    max_body_bytes: Annotated[
        int, Meta(ge=1024, le=2**30, description="Longest body of a request in bytes.")
    ] = 2_097_152
    request_timeout: Annotated[
        float, duration_form("Longest time that a client may take to send a request.")
    ] = 10.0


class VersionSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """When a version counts as ready to serve: as soon as one of these holds."""

    ready_behind: Annotated[
        int,
        Meta(ge=0, le=10**12, description="Most records of its log that a ready version has not learned."),
    ] = 1000
    ready_behind_time: Annotated[
        float, duration_form("Greatest age of the oldest record that a ready version has not learned.")
    ] = 60.0


class KafkaSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where Kafka is; the settings of kafka-python's consumer stand beside it, see `kafka_settings`."""

    bootstrap_servers: Annotated[
        str | list[str],
        Meta(
            description="Kafka's addresses, as localhost:9092, several with commas between; empty: no Kafka. "
            "Settings of kafka-python's KafkaConsumer may follow under their own names.",
            extra={"form": "servers"},
        ),
    ] = ""


class Settings(Struct, frozen=True):
    """Everything that is set.

    Attributes:
        config: the file that was read, None where there is none.
        kafka_client: settings of kafka-python's consumer that stand in [kafka], in its own types.
        sources: dotted key → the place a value came from; keys that are absent have their default.
    """

    home: Annotated[
        Path,
        Meta(
            description="Directory of the registry and the versions; relative to the working directory.",
            extra={"form": "path"},
        ),
    ] = DEFAULT_HOME
    events: EventSettings = EventSettings()
    items: ItemSettings = ItemSettings()
    worker: WorkerSettings = WorkerSettings()
    serve: ServeSettings = ServeSettings()
    versions: VersionSettings = VersionSettings()
    kafka: KafkaSettings = KafkaSettings()
    kafka_client: Mapping[str, Any] = {}
    config: Path | None = None
    sources: Mapping[str, str] = {}


class Described(NamedTuple):
    """One effective setting: secrets already redacted, `value` ready for JSON."""

    key: str
    value: Any
    source: str
    doc: str


class _Key(NamedTuple):
    """One setting as declared: its type without the documentation, limits, form and doc."""

    type: Any
    form: str
    expected: str
    doc: str


class _Given(NamedTuple):
    """One value as found: where it was found, and whether it is text that is still to be read."""

    key: str
    value: Any
    place: str
    source: str
    text: bool


def release() -> str:
    """The installed release of Freshet, "unpackaged" when it runs from a bare source tree."""
    try:
        return metadata.version("freshet")
    except metadata.PackageNotFoundError:
        return "unpackaged"


def duration(text: str) -> float:
    """Seconds in a text such as "250ms", "30s", "5m", "2h", "1d".

    Raises:
        ValueError: the text has another form.

    >>> duration("250ms"), duration("1.5m")
    (0.25, 90.0)
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return float(match[1]) * _UNITS[match[2]]


def load_settings(config: Path | None, home: Path | None, overrides: Mapping[str, str]) -> Settings:
    """The settings that hold here and now.

    Args:
        config: the file to read (`--config`). Without it FRESHET_CONFIG, ./freshet.toml and
            <home>/freshet.toml are tried in this order; only a file that was named must exist.
        home: the home directory (`--home`), above FRESHET_HOME and the file.
        overrides: dotted key → value as text, as from `--set`.

    Raises:
        SettingError: an unknown key, a wrong type or an impossible value in any layer.
    """
    home = home.expanduser() if home else None
    environment_home = _environment_path("HOME")
    found_home = home or environment_home
    path, by_home = _config_path(config, found_home or DEFAULT_HOME)
    given = [
        *(_from_file(path) if path else ()),
        *_from_environment(os.environ),
        *_from_flags(overrides),
    ]
    if environment_home is not None:
        given.append(_Given("home", str(environment_home), "FRESHET_HOME", "FRESHET_HOME", True))
    if home is not None:
        given.append(_Given("home", str(home), "--home", "--home", True))
    settings = _assemble(given, path)
    if by_home and settings.home.resolve() != (found_home or DEFAULT_HOME).resolve():
        raise SettingError(
            f'{path}:home must be the directory that the file was found in, got "{settings.home}". '
            "Leave it out there, or name the file with --config."
        )
    return settings


def describe(settings: Settings) -> list[Described]:
    """Each effective value in the order of declaration, with its source and its documentation."""
    rows = []
    for name, key in KEYS.items():
        value: Any = settings
        for part in name.split("."):
            value = getattr(value, part)
        sources = [s for k, s in settings.sources.items() if k == name or k.startswith(f"{name}.")]
        source = ", ".join(dict.fromkeys(sources)) or "default"
        rows.append(Described(name, _shown(name, value, key.form), source, key.doc))
    for name, value in sorted(settings.kafka_client.items()):
        key_name = f"kafka.{name}"
        doc = "As kafka-python's KafkaConsumer has it."
        rows.append(Described(key_name, _shown(key_name, value, ""), settings.sources[key_name], doc))
    return rows


def environment_name(key: str) -> str:
    """The environment variable of a dotted key.

    >>> environment_name("worker.batch_events")
    'FRESHET_WORKER__BATCH_EVENTS'
    """
    return PREFIX + key.upper().replace(".", "__")


def _declared(struct: type[Struct], prefix: str = "") -> Iterator[tuple[str, _Key]]:
    """Dotted names and declarations of all settings, in the order of declaration."""
    for name, hint in get_type_hints(struct, include_extras=True).items():
        if isinstance(hint, type) and issubclass(hint, Struct):
            yield from _declared(hint, f"{prefix}{name}.")
        elif get_origin(hint) is Annotated:
            bare, *metas = get_args(hint)
            doc = next(m.description for m in metas if m.description)
            form = next((m.extra["form"] for m in metas if m.extra), "")
            yield prefix + name, _Key(hint, form, _expected(bare, metas, form), doc)


def _expected(bare: Any, metas: list[Meta], form: str) -> str:
    """What a value must be, in words."""
    if get_origin(bare) is Literal:
        return " or ".join(f'"{choice}"' for choice in get_args(bare))
    if get_origin(bare) is dict:
        return "a table of event type to number, such as { view = 0.2, purchase = 1 }"
    if form == "port":
        return 'a port from 0 to 65535, or "none"'
    if form == "servers":
        return 'text such as "localhost:9092", or a list of such texts'
    if form == "duration":
        return 'a duration such as "250ms", "30s", "5m", "2h", "1d", or a number of seconds, not below 0'
    if bare is str or bare is Path:
        return "text that is not empty"
    limits = [m for m in metas if m.ge is not None or m.gt is not None]
    low = " and ".join(f"at least {m.ge:,}" if m.ge is not None else f"above {m.gt:,}" for m in limits)
    return f"a {'whole number' if bare is int else 'number'}, {low}, at most {limits[0].le:,}"


KEYS: Mapping[str, _Key] = dict(_declared(Settings))


def _environment_path(name: str) -> Path | None:
    text = os.environ.get(PREFIX + name)
    if text == "":
        raise SettingError(f"{PREFIX}{name} must be a path, got an empty text. Give a path or unset it.")
    return Path(text).expanduser() if text is not None else None


def _config_path(config: Path | None, home: Path) -> tuple[Path | None, bool]:
    """The file to read, None where there is none, and whether only the home directory led to it."""
    for path, flag in ((config, "--config"), (_environment_path("CONFIG"), "FRESHET_CONFIG")):
        if path is not None and not path.is_file():
            raise SettingError(
                f"{flag} must name a TOML file, got {path}, where no file is. Correct the path."
            )
        if path is not None:
            return path, False
    if Path(CONFIG_NAME).is_file():
        return Path(CONFIG_NAME), False
    path = home / CONFIG_NAME
    return (path, True) if path.is_file() else (None, False)


def _from_file(path: Path) -> Iterator[_Given]:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} must be TOML in UTF-8: {error}. Correct the file.") from error
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror}. Correct its permissions.") from error
    for key, value in _leaves(tree, str(path), ""):
        yield _Given(key, value, f"{path}:{key}", str(path), False)


def _leaves(tree: Mapping[str, Any], place: str, prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; tables are entered as far as sections are declared."""
    for name, value in tree.items():
        key = prefix + name
        if not any(known.startswith(f"{key}.") for known in KEYS):
            yield key, value
        elif isinstance(value, dict):
            yield from _leaves(value, place, f"{key}.")
        else:
            raise SettingError(f"{place}:{key} must be a section, as in [{key}], got {_quoted(key, value)}.")


def _from_environment(environment: Mapping[str, str]) -> Iterator[_Given]:
    for variable, text in sorted(environment.items()):
        if variable.startswith(PREFIX) and not _FOREIGN.fullmatch(variable):
            key = variable.removeprefix(PREFIX).lower().replace("__", ".")
            if key not in KEYS and not key.startswith("kafka."):
                near = nearest(variable, [environment_name(known) for known in KEYS])
                raise SettingError(f"{variable} is not a setting.{near} `freshet config` lists them all.")
            yield _Given(key, text, variable, variable, True)


def _from_flags(overrides: Mapping[str, str]) -> Iterator[_Given]:
    for key, text in overrides.items():
        yield _Given(key, text, f"--set {key}", "--set", True)


def _assemble(given: list[_Given], path: Path | None) -> Settings:
    """Checks each value and puts the layers on each other, later ones on top."""
    tree: dict[str, Any] = {
        "events": {"fields": {}, "weights": {"*": 1.0}},
        "items": {"fields": {}},
        "worker": {},
        "serve": {},
        "versions": {},
        "kafka": {},
    }
    client: dict[str, Any] = {}
    sources: dict[str, str] = {}
    places: dict[str, str] = {}
    for one in given:
        if one.key.startswith("kafka.") and one.key not in KEYS:
            name = one.key.removeprefix("kafka.")
            text = one.value if not one.text or kafka_settings.is_text(name) else _toml_value(one.value)
            client[name] = kafka_settings.client_setting(name, text, one.place, _quoted(one.key, one.value))
            sources[one.key] = one.source
            continue
        name, below = _resolved(one)
        key = KEYS[name]
        value = _read(one, key, below)
        *sections, last = name.split(".")
        node = tree
        for section in sections:
            node = node[section]
        if isinstance(value, dict):
            node[last] |= value
            sources |= {f"{name}.{entry}": one.source for entry in value}
        else:
            node[last] = value
            sources[name] = one.source
        places[name] = one.place
    settings = msgspec.convert(tree, Settings)
    _agree(settings, places)
    home = settings.home.expanduser()
    return msgspec.structs.replace(settings, home=home, config=path, sources=sources, kafka_client=client)


def _resolved(one: _Given) -> tuple[str, str]:
    """The declared key that a value belongs to, and the entry below it where that is a table."""
    if one.key in KEYS:
        return one.key, ""
    entry = re.fullmatch(r"(events\.weights)\.(.+)", one.key)
    if entry and one.text:
        return entry[1], entry[2]
    if isinstance(one.value, dict):
        near = nearest(one.key, {known.rpartition(".")[0] for known in KEYS} - {""})
    else:
        near = nearest(one.key, KEYS) or _nearest_last(one.key)
    raise SettingError(f"{one.place} is not a setting.{near} `freshet config` lists them all.")


def _nearest_last(key: str) -> str:
    """As `nearest`, for a key given without its section or under a wrong one."""
    by_last = {known.rpartition(".")[2]: known for known in KEYS}
    near = nearest(key.rpartition(".")[2], by_last)
    return re.sub(r'"(.+)"', lambda m: f'"{by_last[m[1]]}"', near)


def _read(one: _Given, key: _Key, below: str) -> Any:
    """The value in its type.

    Raises:
        SettingError: a wrong type or an impossible value.
    """
    value = _from_text(one.value, key.type) if one.text else one.value
    if below:
        value = {below: value}
    try:
        if key.form == "duration" and isinstance(value, str):
            value = duration(value)
        if key.form == "port":
            value = _port(value)
        if key.form == "path":
            value = _path(value)
        return msgspec.convert(value, key.type)
    except (msgspec.ValidationError, ValueError) as error:
        choices = get_args(get_args(key.type)[0] if get_origin(key.type) is Annotated else key.type)
        words = [c for c in choices if isinstance(c, str)]
        near = nearest(value, words) if isinstance(value, str) else ""
        got = _quoted(one.key, one.value)
        expected = "a number" if below else key.expected
        raise SettingError(f"{one.place} must be {expected}, got {got}.{near}") from error


def _from_text(text: str, hint: Any) -> Any:
    """A value written as text in the environment or a flag: TOML where it is not text by type."""
    bare = get_args(hint)[0]
    if bare in (str, Path) or get_origin(bare) is Literal:
        return text
    return _toml_value(text)


def _toml_value(text: str) -> Any:
    """A TOML value, or the text itself where it is none."""
    try:
        # People write .5, which TOML does not know.
        tree = tomllib.loads("value = " + re.sub(r"^([+-]?)\.", r"\g<1>0.", text.strip()))
    except tomllib.TOMLDecodeError:
        return text
    return tree["value"] if len(tree) == 1 else text


def _port(value: Any) -> int | None:
    if value == "none":
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 65535:
        raise ValueError(value)
    return value


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError(value)
    return Path(value)


def _agree(settings: Settings, places: Mapping[str, str]) -> None:
    """Refuses values that are possible one by one, but not together."""
    worker = settings.worker
    if worker.commit_interval_max < worker.commit_interval_min:
        place = places.get("worker.commit_interval_max") or places["worker.commit_interval_min"]
        raise SettingError(
            f"{place}: worker.commit_interval_max must be at least worker.commit_interval_min, got "
            f"{worker.commit_interval_max:g} s below {worker.commit_interval_min:g} s. Change one of them."
        )
    _differ("events.fields", settings.events.fields, places)
    _differ("items.fields", settings.items.fields, places)
    if settings.items.file and settings.items.topic:
        raise SettingError(
            f"{places['items.topic']}: the catalogue comes from one place; items.file is "
            f'"{settings.items.file}" and items.topic "{settings.items.topic}". Leave one of them empty.'
        )


def _differ(section: str, fields: Struct, places: Mapping[str, str]) -> None:
    """Refuses one name for two fields."""
    names: dict[str, str] = {}
    for field, name in msgspec.structs.asdict(fields).items():
        if name in names:
            place = places.get(f"{section}.{field}") or places[f"{section}.{names[name]}"]
            raise SettingError(
                f'{place}: {section}.{field} and {section}.{names[name]} must differ, got "{name}" for both.'
            )
        names[name] = field


def _shown(key: str, value: Any, form: str) -> Any:
    """The value in a form that JSON and people can read; a secret as stars."""
    if _SECRET.search(key):
        return "***" if value else value
    if form == "port" and value is None:
        return "none"
    if form == "duration":
        return f"{value * 1000:g}ms" if 0 < value < 1 else f"{value:g}s"
    return str(value) if isinstance(value, Path) else value


def _quoted(key: str, value: Any) -> str:
    if _SECRET.search(key):
        return "a secret that is not shown"
    return f'"{value}"' if isinstance(value, str) else str(value)
