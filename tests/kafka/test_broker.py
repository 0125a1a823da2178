from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from consumers.broker import Broker, _free_ports
from streaming.errors import BrokerError, UsageError

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0


def read(bootstrap: str, topic: str, count: int, **settings: Any) -> list[bytes | None]:
    """The values of a topic's first records."""
    values: list[bytes | None] = []
    until = time.monotonic() + WAIT_S
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", **settings)
    try:
        consumer.assign([TopicPartition(topic, 0)])
        while len(values) < count and time.monotonic() < until:
            for records in consumer.poll(timeout_ms=200).values():
                values += [record.value for record in records]
    finally:
        consumer.close()
    return values


def write(bootstrap: str, topic: str, *values: bytes, **settings: Any) -> None:
    with KafkaProducer(bootstrap_servers=bootstrap, **settings) as producer:
        sent = [producer.send(topic, value, partition=0) for value in values]
        for one in sent:
            one.get(WAIT_S)


def make_topic(bootstrap: str, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics({topic: {"num_partitions": 1}}, wait_for_metadata=True)
    admin.close()


def processes_naming(path: Path) -> list[str]:
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if str(path) in line]


def await_true(condition: Callable[[], object]) -> None:
    until = time.monotonic() + WAIT_S
    while not (seen := condition()):
        assert time.monotonic() < until, seen
        time.sleep(0.02)


@pytest.fixture
def home_broker(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`freshet broker` on a home directory, begun and not awaited."""
    command = [sys.executable, "-c", "from consumers.cli import main; raise SystemExit(main())"]
    (port,) = map(str, _free_ports(1))  # none that an outgoing connection may take meanwhile
    process = subprocess.Popen(
        [*command, "--home", str(tmp_path), "broker", "--port", port],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_records_are_read_as_they_were_written(
    broker: Broker, topic: str, produce: Callable[..., list[int]]
) -> None:
    assert produce(topic, [b"a", None, b"c"], keys=[b"k", b"k", None]) == [0, 1, 2]
    assert read(broker.bootstrap, topic, 3) == [b"a", None, b"c"]


def test_data_stay_through_ctrl_c_restart_and_kill(
    home_broker: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert home_broker.stdout is not None
    bootstrap = home_broker.stdout.readline().strip()
    assert bootstrap, home_broker.communicate()[1]
    make_topic(bootstrap, "events")
    write(bootstrap, "events", b"before the stop")
    home_broker.send_signal(signal.SIGINT)
    _, said = home_broker.communicate(timeout=WAIT_S)
    assert (home_broker.returncode, "stopping Kafka" in said) == (0, True)
    assert not processes_naming(tmp_path / "broker")

    with Broker(tmp_path / "broker") as broker:
        assert read(broker.bootstrap, "events", 1) == [b"before the stop"]
        write(broker.bootstrap, "events", b"before the kill")
        address = broker.bootstrap
        broker.kill()
        assert not broker.nodes[0].alive
        broker.start()
        assert broker.bootstrap == address
        assert read(address, "events", 2) == [b"before the stop", b"before the kill"]
        with pytest.raises(BrokerError, match="is in use by another broker"):
            Broker(tmp_path / "broker").start()
    assert not processes_naming(tmp_path / "broker")


def test_listener_with_passwords_serves_beside_the_plain_one() -> None:
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    properties = {
        "sasl.enabled.mechanisms": "SCRAM-SHA-256",
        "listener.name.secure.scram-sha-256.sasl.jaas.config": scram,
    }
    with Broker(listeners={"SECURE": "SASL_PLAINTEXT"}, properties=properties) as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion("ada", ScramMechanism.SCRAM_SHA_256, "right", iterations=4096)]
        )
        admin.close()
        make_topic(broker.bootstrap, "events")
        address = broker.address("SECURE")
        login = {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "SCRAM-SHA-256",
            "sasl_plain_username": "ada",
            "sasl_plain_password": "right",
        }
        write(address, "events", b"a", **login)
        assert read(address, "events", 1, **login) == [b"a"]


def test_suspended_broker_answers_when_it_is_resumed_or_stopped() -> None:
    with Broker() as broker:
        make_topic(broker.bootstrap, "events")
        broker.suspend()
        assert broker.nodes[0].alive
        host, port = broker.bootstrap.split(":")
        with socket.create_connection((host, int(port))) as silent:
            silent.settimeout(0.2)
            silent.sendall(b"\0\0\0\x0a\0\x12\0\0\0\0\0\1\xff\xff")
            with pytest.raises(TimeoutError):
                silent.recv(4)
        broker.resume()
        write(broker.bootstrap, "events", b"a")
        broker.suspend()
        broker.stop()
        assert not broker.nodes[0].alive


def test_nothing_is_left_when_the_owner_is_killed() -> None:
    program = (
        "from consumers.broker import Broker; b = Broker(); print('at', b.directory, flush=True); b.start(); "
        "print('ready', flush=True); input()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        told = next(line for line in owner.stdout if line.startswith("at "))  # what is logged may come first
        directory = Path(told.removeprefix("at ").strip())
        await_true(lambda: any("kafka.Kafka" in line for line in processes_naming(directory)))
        owner.kill()
    await_true(lambda: not processes_naming(directory))
    await_true(lambda: not directory.exists())


def test_broker_listens_on_the_loopback_address_alone(broker: Broker) -> None:
    port = int(broker.bootstrap.rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port)).close()
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), timeout=1):
        pass


def test_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=f"Port {port} of 127.0.0.1 is taken"):
            Broker(port=port)


def test_number_of_nodes_must_be_a_majority_and_that_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--nodes must be 1 or 3, got 2"):
        Broker(nodes=2)
    meta = tmp_path / "node-1" / "data" / "meta.properties"
    meta.parent.mkdir(parents=True)
    meta.touch()
    with pytest.raises(UsageError, match="holds a cluster of 1 node and cannot start with 3"):
        Broker(tmp_path, nodes=3)


def test_setting_that_kafka_refuses_is_quoted() -> None:
    with pytest.raises(BrokerError, match=r"node 1 cannot lay out its data. It said: .*num\.io\.threads"):
        Broker(properties={"num.io.threads": "none"}).start()


def test_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BrokerError, match="cannot be written: Not a directory"):
        Broker(tmp_path / "file" / "broker").start()
