"""The composition names only settings, commands, options, volumes and files that there are."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumers.cli import main
from consumers.settings import KEYS, environment_name

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service.get("image") == "freshet"}
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()

_HEALTH = "HEALTH_URL"  # what the health check asks; a name with FRESHET_ would be refused as no setting


def commands(service: dict[str, Any]) -> list[list[str]]:
    """The freshet command lines of a service, as words after `freshet`."""
    if "entrypoint" not in service:
        return [service["command"]]
    lines = re.split(r"\|\||\n", "\n".join(service["command"]))
    return [shlex.split(line)[1:] for line in lines if line.strip()]


def test_every_environment_variable_is_a_setting() -> None:
    known = {environment_name(key) for key in KEYS} | {_HEALTH}
    named = {name for service in OURS.values() for name in service["environment"]}
    named |= set(re.findall(r"\bFRESHET_\w+", DOCKERFILE))
    assert named - known == set()
    assert f"${{{_HEALTH}:-" in DOCKERFILE


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_command_and_option_exists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(OURS[name]):
        command = words[: 2 if words[0] == "versions" else 1]
        assert main([*command, "--help"]) == 0
        said = capsys.readouterr().out
        assert [word for word in words if word.startswith("--") and word not in said] == []


def test_every_volume_service_and_mounted_path_named_is_there() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", ())) <= set(SERVICES), name
        for mount in service.get("volumes", ()):
            source = mount.partition(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_everything_that_runs_on_is_started_again_and_open_to_this_machine_only() -> None:
    for name, service in SERVICES.items():
        if name not in ("topic", "versions"):
            assert service["restart"] == "unless-stopped", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_prometheus_reads_every_process_of_the_composition() -> None:
    groups = json.loads((DEPLOY / "prometheus" / "targets" / "compose.json").read_text())
    targets = {target for group in groups for target in group["targets"]}
    port = OURS["worker-champion"]["environment"]["FRESHET_WORKER__METRICS_PORT"]
    workers = {f"{name}:{port}" for name in OURS if name.startswith("worker-") or name == "outcomes"}
    assert targets == workers | {"server:8000"}


def test_secrets_come_from_outside() -> None:
    for service in OURS.values():
        for name, value in service["environment"].items():
            if re.search("TOKEN|PASSWORD|SECRET", name):
                assert value.startswith("${"), name


def test_image_runs_without_rights_has_a_health_check_and_copies_what_is_there() -> None:
    assert re.search(r"^USER (?!root)\w+$", DOCKERFILE, re.MULTILINE)
    assert "HEALTHCHECK" in DOCKERFILE
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources), line
