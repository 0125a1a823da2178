"""The topic of served lists: settings enter; the topic, or what is wrong with it, leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from kafka import KafkaConsumer

from consumers.broker_rights import SET_CONFIG
from consumers.findings import Finding
from consumers.kafka_clients import admin_of, made_topic, topic_configs, topic_of
from consumers.kafka_settings import client_settings
from state.experiments import Experiments
from streaming.errors import FreshetError, InputError

if TYPE_CHECKING:
    from consumers.settings import Settings

logger = structlog.get_logger()

CHECK = "exposures"


def made_exposure_topic(settings: Settings) -> None:
    """Make the topic with the broker's own number of partitions and replicas, unless it is there.

    Raises:
        BrokerError: Kafka cannot be reached, or refuses.
        InputError: there is no topic of events, or the one of exposures would lose records.
    """
    name, events = settings.events.exposures_topic, settings.events.topic
    with admin_of(client_settings(settings, KafkaConsumer)) as admin:
        if topic_of(admin, events) is None:
            raise InputError(
                f'There is no topic "{events}", so there would be nothing to join. Make it: '
                f"`kafka-topics.sh --create --topic {events} --partitions 4`, or correct events.topic."
            )
        if topic_of(admin, name) is None:
            made = made_topic(admin, name)
            logger.info("topic_made", topic=name, partitions=made.partitions)
        elif "compact" in topic_configs(admin, name).get("cleanup.policy", ""):
            raise InputError(f'Topic "{name}" {_COMPACTED} {_uncompacted(name)}')


def examine_exposure_topic(settings: Settings) -> Finding:
    """Whether lists that are served can be noted, as far as can be seen without writing."""
    name = settings.events.exposures_topic
    remedy = f"Grant this client the right to see {name}, and see that all brokers run."
    try:
        running = Experiments(settings.home).running()
        with admin_of(client_settings(settings, KafkaConsumer)) as admin:
            topic = topic_of(admin, name)
            policy = topic_configs(admin, name).get("cleanup.policy", "") if topic is not None else ""
    except FreshetError as error:
        return Finding(CHECK, False, str(error), remedy)
    if topic is None:
        if running is None:
            return Finding(CHECK, True, f'no "{name}" yet: `freshet experiment create` makes it')
        remedy = f"Make it: `kafka-topics.sh --create --topic {name} --partitions 4`."
        return Finding(CHECK, False, f'there is no "{name}", and the experiment {running.name} runs', remedy)
    if "compact" in policy:
        return Finding(CHECK, False, f'"{name}" {_COMPACTED}', _uncompacted(name))
    return Finding(CHECK, True, f'"{name}" has {topic.partitions} partitions')


_COMPACTED = "is compacted, which deletes all but the newest list of each user."


def _uncompacted(name: str) -> str:
    return f"Set delete: `{SET_CONFIG.format(name, 'cleanup.policy=delete')}`."
