"""A worker learns through TLS and a password from a real Kafka, and the password is told to nobody else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

from consumers.broker import Broker, prepared_runtime
from consumers.cli import main
from tests.consumers.worked import lines
from tests.kafka.test_work_kafka import ROOT, ended, ledger, made, wait_for, worker

PASSWORD, WRONG = "the-right-one-73915", "a-wrong-one-82640"
KEYSTORE_PASSWORD = "of-the-keystore"
TOPIC = "events"
REFUSED_MS = (2_500, 30_000)  # enough for Kafka to refuse a client; the second on a machine that stalls
Captured = pytest.CaptureFixture[str]


class Secured(NamedTuple):
    """A Kafka whose clients know each other by certificate and password."""

    broker: Broker
    authority: Path  # PEM

    def write_config(self, password: str, authority: Path | None = None, timeout_ms: int = 60_000) -> None:
        """`freshet.toml` for it, in the working directory; a client tries again until its time is over."""
        sections = {
            "worker": {"log_level": "debug", "metrics_port": 0, "commit_interval_min": "20ms"},
            "events": {"topic": TOPIC},
            "kafka": {
                "bootstrap_servers": self.broker.address("SECURE"),
                "bootstrap_timeout_ms": timeout_ms,
                "security_protocol": "SASL_SSL",
                "ssl_cafile": str(authority or self.authority),
                "sasl_mechanism": "SCRAM-SHA-256",
                "sasl_plain_username": "ada",
                "sasl_plain_password": password,
            },
        }
        rows = []
        for section, values in sections.items():
            rows += [f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
        path = Path("freshet.toml")
        path.touch(mode=0o600)
        path.write_text("\n".join(rows))


def certified(directory: Path) -> tuple[Path, Path]:
    """A keystore for 127.0.0.1 and its certificate, which signs itself, as PEM."""
    keystore, certificate = directory / "keys.p12", directory / "certificate.pem"
    java = [str(prepared_runtime().java), "sun.security.tools.keytool.Main"]
    store = ["-alias", "node", "-keystore", str(keystore), "-storetype", "PKCS12"]
    store += ["-storepass", KEYSTORE_PASSWORD]
    made_for = ["-dname", "CN=127.0.0.1", "-ext", "san=ip:127.0.0.1", "-ext", "bc:c=ca:true"]
    kind = ["-keyalg", "EC", "-groupname", "secp256r1", "-validity", "2"]
    for words in (["-genkeypair", *kind, *made_for], ["-exportcert", "-rfc", "-file", str(certificate)]):
        subprocess.run([*java, *words, *store], check=True, capture_output=True)
    return keystore, certificate


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    keystore, certificate = certified(tmp_path_factory.mktemp("keys"))
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    properties = {
        "sasl.enabled.mechanisms": "SCRAM-SHA-256",
        "listener.name.secure.scram-sha-256.sasl.jaas.config": scram,
        "listener.name.secure.ssl.keystore.location": str(keystore),
        "listener.name.secure.ssl.keystore.type": "PKCS12",
        "listener.name.secure.ssl.keystore.password": KEYSTORE_PASSWORD,
    }
    with Broker(listeners={"SECURE": "SASL_SSL"}, properties=properties) as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion("ada", ScramMechanism.SCRAM_SHA_256, PASSWORD, iterations=4096)]
        )
        admin.create_topics({TOPIC: {"num_partitions": 1}}, wait_for_metadata=True)
        admin.close()
        with KafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
            for line in lines(100, seed=21):
                producer.send(TOPIC, line.encode(), partition=0)
        yield Secured(broker, certificate)


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("FRESHET_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


def without_secrets(text: str) -> str:
    assert PASSWORD not in text and WRONG not in text
    return text


def said(capsys: Captured, code: int, *words: str) -> str:
    """All that a command says."""
    capsys.readouterr()
    assert main(list(words)) == code
    printed = capsys.readouterr()
    return without_secrets(" ".join((printed.out + printed.err).split()))


def refused(*words: str) -> str:
    """All that a command says which fails, in a process of its own: kafka-python leaves sockets open then."""
    freshet = [sys.executable, "-c", "from consumers.cli import main; raise SystemExit(main())"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*freshet, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 1, done
    return without_secrets(" ".join((done.stdout + done.stderr).split()))


def test_worker_learns_through_tls_and_a_password_which_stands_nowhere(
    secured: Secured, capsys: Captured
) -> None:
    secured.write_config(PASSWORD)
    version = made("mine")
    with worker([], "mine") as process:
        wait_for(lambda: version.learned_anything and ledger(version).records == 100, process)
        address = re.search(r"http://127\.0\.0\.1:\d+/metrics", Path("worker.log").read_text())
        assert address is not None
        with urlopen(address[0], timeout=60) as answer:
            metrics = answer.read().decode()
        report = ended(process)
    assert report["offsets"] == {f"{TOPIC}[0]": 100}
    assert "freshet_events" in without_secrets(metrics)
    without_secrets(json.dumps(report))
    assert "batch_committed" in without_secrets(Path("worker.log").read_text())
    for path in Path("freshet-home").rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path
    assert "sasl_plain_password" in said(capsys, 0, "config")
    assert "sasl_plain_password" in said(capsys, 0, "config", "--json")
    assert f"{TOPIC}[0]" in said(capsys, 0, "lag", "--json")
    assert '"different":0' in said(capsys, 0, "versions", "rebuild", "mine", "--json").replace(" ", "")


@pytest.mark.slow
def test_wrong_password_is_an_error_that_does_not_tell_it(secured: Secured) -> None:
    made("mine")
    for timeout_ms in REFUSED_MS:
        secured.write_config(WRONG, timeout_ms=timeout_ms)
        told = refused("work", "mine", "--until-end")
        if "lets this client in by SASL_SSL" in told:
            break
    assert "lets this client in by SASL_SSL" in told
    assert "the password" in refused("doctor")


@pytest.mark.slow
def test_certificate_that_nobody_vouches_for_is_refused(secured: Secured, tmp_path: Path) -> None:
    other = certified(tmp_path)[1]
    made("mine")
    for timeout_ms in REFUSED_MS:
        secured.write_config(PASSWORD, other, timeout_ms)
        told = refused("work", "mine", "--until-end")
        if "certificate verify failed" in told:
            break
    assert "certificate verify failed" in told
