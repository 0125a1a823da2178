"""The settings as declared: sections and keys with their types, limits, defaults and documentation.

What `freshet config` prints, the example file and the checks of values all follow from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

DEFAULT_HOME = Path("freshet-home")

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
    exposures_topic: Annotated[
        FieldName,
        Meta(description="Kafka topic of the lists that were served while an experiment ran, keyed by user."),
    ] = "exposures"
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


class SessionSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How the session transformer's worker cuts sessions, trains and is let in."""

    idle: Annotated[
        float, duration_form("Pause that ends a session; 0: a user's history is one session without an end.")
    ] = 0.0
    active_users: Annotated[
        int,
        Meta(ge=1, le=1_000_000_000, description="Users whose sequence embeddings are held in memory."),
    ] = 200_000
    gate: Annotated[
        Literal["auto", "open", "shut"],
        Meta(
            description="Whether sequence embeddings are served: where their record is better (auto), always "
            "(open), or never (shut)."
        ),
    ] = "auto"
    compared: Annotated[
        float,
        Meta(ge=0, le=1, description="Share of events by which the gate compares them with the plain ones."),
    ] = 0.05
    behind: Annotated[
        float, duration_form("Age of events from which on training is scaled down, so that refresh is not.")
    ] = 0.5


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
    sessions: SessionSettings = SessionSettings()
    versions: VersionSettings = VersionSettings()
    kafka: KafkaSettings = KafkaSettings()
    kafka_client: Mapping[str, Any] = {}
    config: Path | None = None
    sources: Mapping[str, str] = {}
