"""A worker whose Kafka does not answer looks well nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from consumers.broker import Broker
from state.spec import new_spec
from state.versions import Registry
from tests.consumers.test_server_process import ROOT, server
from tests.consumers.worked import lines
from tests.monitoring import Shown, jobs_of, prometheus, until


@pytest.mark.timeout(900)  # the sum of what it may wait for
def test_broker_that_does_not_answer_shows_everywhere_until_it_is_back(tmp_path: Path) -> None:
    home = tmp_path / "home"
    Registry(home).create("mine", new_spec("popularity", {"evaluation_rate": 0.2}))
    with ExitStack() as held:
        metrics = held.enter_context(prometheus(tmp_path, jobs_of(home)))
        broker = held.enter_context(Broker())
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        admin.create_topics({"events": {"num_partitions": 1}}, wait_for_metadata=True)
        admin.close()
        with KafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
            for line in lines(30, seed=8):
                producer.send("events", line.encode(), partition=0)
        _, address = held.enter_context(server(home))
        shown = Shown(home, address, metrics)
        settings = {
            "kafka.bootstrap_servers": broker.bootstrap,
            "events.topic": "events",
            "worker.metrics_port": "0",
        }
        sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        program = "from consumers.cli import main; raise SystemExit(main())"
        command = [sys.executable, "-c", program, "--home", str(home), *sets, "work", "mine"]
        worker = held.enter_context(
            subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        )
        held.callback(worker.kill)

        def states() -> tuple[str, str]:
            terminal = shown.in_terminal("work-mine").get("state", "")
            return shown.on_page("mine").get("state", ""), terminal

        until(lambda: states() == ("well", "well"), "a worker that is well")
        broker.suspend()
        until(
            lambda: (
                "Kafka is out of reach" in shown.on_page("mine").get("words", "")
                and "Kafka is out of reach" in states()[1]
                and "FreshetLagUnknown" in shown.alerts("mine")
            ),
            "a broker that does not answer",
        )
        assert states()[0] == "bad"
        broker.resume()
        until(lambda: states() == ("well", "well"), "a worker that goes on")
        until(lambda: "FreshetLagUnknown" not in shown.alerts("mine"), "no alert")
